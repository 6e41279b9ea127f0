"""The largest rank of a low-rank model within a budget of parameters.

    max r   such that   non-embedding parameters of the model of rank r <= budget

The parameter count increases with the rank, so a binary search over r finds it.
Parameters are counted from a model's sizes; none is allocated.
"""

from collections.abc import Callable

from lostjax.nn.parameters import count_parameters
from lostjax.nn.transformer import Transformer


def rank_for_budget(
    make_model: Callable[[int], Transformer],
    *,
    n_parameters: int,
    max_rank: int | None = None,
) -> int:
    """Find the largest rank whose model stays within a parameter budget.

    Args:
        make_model: function from a rank to a model; the parameter count must increase
            with the rank.
        n_parameters: the budget, without embedding and head.
        max_rank: largest rank to try, >= 1; None for min(D, F), the smallest side of a
            matrix.

    Returns:
        The rank, in [1, max_rank].

    Raises:
        ValueError: if the model of rank 1 exceeds the budget.

    Example:
        dense = count_parameters(Transformer(**sizes)).non_embedding
        rank = rank_for_budget(make_lost, n_parameters=dense // 2)
    """
    smallest = make_model(1)
    if max_rank is None:
        max_rank = min(smallest.d_model, smallest.d_hidden)
    least = count_parameters(smallest).non_embedding
    if least > n_parameters:
        raise ValueError(
            f"n_parameters={n_parameters}: the model of rank 1 has {least} without"
            " embedding and head"
        )
    low, high = 1, max_rank
    while low < high:
        middle = (low + high + 1) // 2
        if count_parameters(make_model(middle)).non_embedding <= n_parameters:
            low = middle
        else:
            high = middle - 1
    return low
