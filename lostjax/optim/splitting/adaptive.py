"""The size of FRUGAL's state, and rules that reduce it during a run.

AdaFRUGAL (2026, arXiv:2601.11568) lowers the density and increases the gap between
refreshes. Its two rules are implemented here as plain functions. They follow a summary
of the paper; the paper itself was not available.

    density(t) = max(end, start - (start - end) t / T)
    gap <- min(largest, factor * gap)   if the validation loss has settled

The density determines shapes, so it changes on the host between two steps: build a new
transformation and resize the old state for it. Each density requires a compilation, so
use a few stairs only. The gap can change at any step without compilation, as an
argument of `optax.inject_hyperparams`.
"""

import math
from typing import Any

import jax
import optax

from lostjax.optim.splitting.arguments import check_density
from lostjax.optim.splitting.cuts.parts import split_tree
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.optim.splitting.refresh import expire_clock
from lostjax.optim.splitting.strata import rows
from lostjax.optim.splitting.subspace import Subspace, start_draw
from lostjax.optim.splitting.transform import FrugalState
from lostjax.typing import PyTree


def state_bytes(state: optax.OptState) -> int:
    """Count the bytes of a state's arrays.

    Args:
      state: any tree of arrays or of `jax.ShapeDtypeStruct`, such as the result of
        `jax.eval_shape(tx.init, params)`, which allocates nothing.

    Returns:
      Bytes of the global arrays; a sharded array counts once.
    """
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    )


def active_fraction(
    params: PyTree,
    *,
    density: float | int = 0.25,
    subspace: Subspace | None = None,
    matrices: MatricesOrRule | None = None,
) -> float:
    """Compute the fraction of parameter entries for which FRUGAL keeps moments.

    In a small model with a large vocabulary the fraction is far above the density,
    because the embedding and the head keep all their moments.

    Args:
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.
      density: see `scale_by_frugal`.
      subspace: see `scale_by_frugal`; None for `rows()`.
      matrices: see `scale_by_frugal`; None for `find_matrices`.

    Returns:
      Entries of one moment divided by entries of the parameters, in [0, 1]; 0 for an
      empty tree. The basis of an orthonormal subspace is not counted.

    Raises:
      ValueError: under the conditions of `scale_by_frugal` and its `init`.
    """
    density = check_density(density)
    subspace = rows() if subspace is None else subspace
    tree = split_tree(params, subspace, density=density, matrices=matrices)
    total = sum(leaf.size for leaf in tree.leaves)
    active = sum(tree.leaves[i].size for i in tree.rest)
    for group in tree.groups:
        for i, matrix in group.items():
            # Shapes alone: nothing is allocated, and no SVD runs.
            kept, _ = jax.eval_shape(
                lambda leaf, m=matrix: m.start(leaf, draw=start_draw(0, 0)),
                tree.leaves[i],
            )
            active += kept.size
    return active / total if total else 0.0


def resize_density(
    state: optax.OptState, params: PyTree, *, tx: optax.GradientTransformation
) -> optax.OptState:
    """Convert a state to another density, on the host; acts as a refresh.

    The next update draws a new subspace, and its moments start from zero under every
    rule. Counts and the moments of arrays that are not split, such as embeddings, are
    kept.

    Args:
      state: state of a transformation that contains `scale_by_frugal` or `frugal`.
      params: the parameters.
      tx: the same transformation with the new density.

    Returns:
      A state of `tx`.

    Raises:
      ValueError: if the state contains no FRUGAL state, or differs from a state of `tx`
        in more than the density determines.
    """
    if not any(map(_is_frugal, jax.tree.leaves(state, is_leaf=_is_frugal))):
        raise ValueError("state: contains no FrugalState")
    try:
        resized: optax.OptState = jax.tree.map(
            _resize, tx.init(params), state, is_leaf=_is_frugal
        )
    except ValueError as error:
        raise ValueError(f"tx: its state does not match `state`: {error}") from None
    return resized


def falling_density(
    step: int, *, steps: int, start: float = 0.25, end: float = 0.05
) -> float:
    """Compute the density of a step, falling linearly: AdaFRUGAL's rule.

    Args:
      step: step of the run, 0-based.
      steps: number of steps of the run T, at least 1.
      start: density at step 0, in [0, 1].
      end: lower bound of the density, in [0, start]. The defaults are AdaFRUGAL's.

    Returns:
      The density. Round it to a few stairs, such as `round(20 * density) / 20`, before
      building a transformation.

    Raises:
      ValueError: if an argument is out of range.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if not 0 <= end <= start <= 1:
        raise ValueError(f"end={end}, start={start}: need 0 <= end <= start <= 1")
    return max(end, start - (start - end) * step / steps)


def grown_gap(
    gap: int,
    *,
    loss_change: float,
    threshold: float = 0.005,
    factor: float = 1.5,
    largest: int = 1000,
) -> int:
    """Compute the next gap, which grows if the loss has settled: AdaFRUGAL's rule.

    Args:
      gap: present number of steps between refreshes, at least 1; AdaFRUGAL starts at
        100.
      loss_change: change of the validation loss since the last call; AdaFRUGAL
        evaluates it every 5000 steps.
      threshold: the loss has settled if it changed by less than this.
      factor: growth factor, at least 1.
      largest: upper bound of the gap, at least `gap`. The defaults are AdaFRUGAL's.

    Returns:
      The next gap, rounded down.

    Raises:
      ValueError: if an argument is out of range.
    """
    if not 1 <= gap <= largest:
        raise ValueError(f"gap={gap}: must lie in [1, largest={largest}]")
    if factor < 1:
        raise ValueError(f"factor={factor}: must be at least 1")
    return min(largest, int(factor * gap)) if abs(loss_change) < threshold else gap


def _is_frugal(x: Any) -> bool:
    return isinstance(x, FrugalState)


def _resize(new: Any, old: Any) -> Any:
    if not _is_frugal(new):
        return old
    # Compare structures first: states of other arrays would be mixed up silently.
    made: Any = jax.tree.structure(new.rest)
    if made != jax.tree.structure(old.rest):
        raise ValueError("different arrays are split")
    # Density 0 has no clocks: leaving it starts new ones.
    clocks = old.clocks if len(old.clocks) == len(new.clocks) else new.clocks
    return new._replace(
        count=old.count,
        clocks=tuple(map(expire_clock, clocks)),
        rest=old.rest,
        nonfinite=old.nonfinite,
    )
