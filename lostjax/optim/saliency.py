"""Saliency: the weights that examples ask to change most, and a mask of them.

    saliency = |sum over batches of d loss / d weights|
    mask     = True at the round(s n) largest of n, all weights together or by group

Unlearning then trains the masked weights alone, with `mask_updates` at the end of the
chain: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight
Saliency in Both Image Classification and Generation", 2023, arXiv:2310.12508. Their
threshold is the median (s = .5). The absolute value is taken after the sum, as in their
code. Weights are ranked and not compared with a threshold, so that a mask has exactly
as many weights as asked; of equal weights the earliest enter.

Cost: one gradient a batch, and one float32 tree; ranking takes O(n log n) on the host.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.trees import path_text
from lostjax.typing import PyTree


def score_saliency(
    gradient_of: Callable[[PyTree, Any], PyTree],
    params: PyTree,
    *,
    batches: Iterable[Any],
) -> PyTree:
    """Sum gradients over batches, and take absolute values.

    Args:
      gradient_of: from parameters and a batch to the gradient of a loss summed over its
        examples, such as `jax.jit(jax.grad(loss))`; of the same structure.
      params: where gradients are taken, in evaluation mode.
      batches: what is to be forgotten; one or more.

    Returns:
      Values of the parameters' structure and shapes, float32, not negative.

    Raises:
      ValueError: there is no batch.
    """
    total = None
    for batch in batches:
        gradient = gradient_of(params, batch)
        total = _widen(gradient) if total is None else _add(total, gradient)
    if total is None:
        raise ValueError("batches: is empty, needs 1 or more")
    return jax.tree.map(jnp.abs, total)


def saliency_mask(
    saliency: PyTree,
    fraction: float | int,
    *,
    scope: Callable[[str], Hashable] | None = None,
) -> PyTree:
    """Select the weights of largest saliency.

    Args:
      saliency: from `score_saliency`, or any tree of numbers; it is read on the host.
      fraction: s, share of the weights to select, in (0, 1).
      scope: from a leaf's path, such as `layers/mlp/w`, to the group in which its
        weights are ranked; `str` ranks each leaf by itself, and a constant function, as
        None, ranks all together.

    Returns:
      Boolean arrays of the same shapes, placed as the saliency is: True at selected
      weights. At leaves of integers False, because they have no gradient.

    Raises:
      ValueError: the fraction is out of range or selects no weight of a group, a value
        is NaN, or a group's are all 0.

    Example:
      saliency = score_saliency(jax.jit(jax.grad(loss)), params, batches=forget)
      mask = saliency_mask(saliency, 0.3)
      tx = optax.chain(optax.adamw(1e-3), mask_updates(mask))
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: must lie in (0, 1)")
    groups: dict[Hashable, list[tuple[str, np.ndarray]]] = {}
    for path, leaf in jax.tree.leaves_with_path(saliency):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            name = path_text(path)
            group = None if scope is None else scope(name)
            values = np.asarray(leaf, np.float32)
            if np.isnan(values).any():
                raise ValueError(f"saliency, {name}: holds NaN")
            groups.setdefault(group, []).append((name, values))
    if not groups:
        raise ValueError("saliency: has no leaf of floating-point numbers")
    selected: dict[str, np.ndarray] = {}
    for group, leaves in groups.items():
        selected |= _select(leaves, fraction, group=group)

    def place(path: tuple[object, ...], leaf: Any) -> Any:
        mask = selected.get(path_text(path))
        if mask is None:
            return False
        if not isinstance(leaf, jax.Array):
            return mask
        return jax.device_put(mask, leaf.sharding)

    return jax.tree.map_with_path(place, saliency)


def _select(
    leaves: list[tuple[str, np.ndarray]], fraction: float, *, group: Hashable
) -> dict[str, np.ndarray]:
    """Select the largest values of some leaves together."""
    whole = np.concatenate([values.ravel() for _, values in leaves])
    where = "saliency" if group is None else f"saliency, {group}"
    count = round(fraction * whole.size)
    if not count:
        raise ValueError(f"fraction={fraction}: selects none of {where}'s {whole.size}")
    if not np.any(whole):
        raise ValueError(f"{where}: is 0 everywhere, no gradient reaches it")
    chosen = np.zeros(whole.size, bool)
    # Stable, so that the earliest of equal values enter, on every machine.
    chosen[np.argsort(-whole, kind="stable")[:count]] = True
    borders = np.cumsum([values.size for _, values in leaves])[:-1]
    parts = np.split(chosen, borders)
    return {
        name: part.reshape(values.shape)
        for (name, values), part in zip(leaves, parts, strict=True)
    }


@jax.jit
def _widen(gradient: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.float32), gradient)


@jax.jit
def _add(total: PyTree, gradient: PyTree) -> PyTree:
    return jax.tree.map(lambda a, x: a + x.astype(jnp.float32), total, gradient)
