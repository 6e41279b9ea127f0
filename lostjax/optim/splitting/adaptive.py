"""What FRUGAL's state weighs, and how it shrinks while a run goes on.

AdaFRUGAL (2026, arXiv:2601.11568) lets the density fall and the gap between refreshes
grow; its two rules are here as plain functions, as a summary of the paper gives them:
the paper itself was not at hand.

    density(t) = max(end, start - (start - end) t / T)
    gap <- min(largest, factor * gap)   where the validation loss has settled

A density makes shapes, so it changes on the host, between two steps: a new
transformation, and the state of the old one resized for it. Each density is a program
to compile; let it fall by a few stairs. A gap does not: it may be an argument of
`optax.inject_hyperparams` and change at any step.
"""

import math
from typing import Any

import jax
import optax

from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.optim.splitting.parts import split_tree
from lostjax.optim.splitting.refresh import expire_clock
from lostjax.optim.splitting.strata import rows
from lostjax.optim.splitting.subspace import Subspace
from lostjax.optim.splitting.transform import FrugalState, check_density
from lostjax.typing import PyTree


def state_bytes(state: optax.OptState) -> int:
    """Count the bytes of a state's arrays.

    Args:
      state: any tree of arrays or of `jax.ShapeDtypeStruct`, such as
        `jax.eval_shape(tx.init, params)` gives without making anything.

    Returns:
      Bytes, of whole arrays: a sharded one counts once.
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
    """Give the share of parameter entries for which FRUGAL keeps moments.

    In a small model with a large vocabulary it is far above the density, since the
    embedding and the head keep theirs.

    Args:
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.
      density: see `scale_by_frugal`.
      subspace: see `scale_by_frugal`; None for `rows()`.
      matrices: see `scale_by_frugal`; None for `find_matrices`.

    Returns:
      Entries of one moment over entries of the parameters, in [0, 1]; 0 for an empty
      tree. In an orthonormal subspace the basis is not counted.

    Raises:
      ValueError: as `scale_by_frugal` and its `init` do.
    """
    density = check_density(density)
    subspace = rows() if subspace is None else subspace
    tree = split_tree(params, subspace, density=density, matrices=matrices)
    total = sum(leaf.size for leaf in tree.leaves)
    active = sum(tree.leaves[i].size for i in tree.rest)
    for group in tree.groups:
        for i, matrix in group.items():
            kept, _ = jax.eval_shape(
                lambda leaf, m=matrix: m.start(leaf, seed=0), tree.leaves[i]
            )
            active += kept.size
    return active / total if total else 0.0


def resize_density(
    state: optax.OptState, params: PyTree, *, tx: optax.GradientTransformation
) -> optax.OptState:
    """Turn a state of one density into a state of another: a refresh, on the host.

    The next update draws a new subspace; moments in it start from zero, whatever the
    rule. The counts and everything else, as the moments of embeddings, stay.

    Args:
      state: of a transformation with `scale_by_frugal` or `frugal` anywhere in it.
      params: the parameters.
      tx: the same transformation with the new density.

    Returns:
      A state of `tx`.

    Raises:
      ValueError: where the state is not FRUGAL's, or differs from one of `tx` in more
        than what the density decides.
    """
    if not any(map(_is_frugal, jax.tree.leaves(state, is_leaf=_is_frugal))):
        raise ValueError("state: holds no FrugalState")
    try:
        resized: optax.OptState = jax.tree.map(
            _resize, tx.init(params), state, is_leaf=_is_frugal
        )
    except ValueError as error:
        raise ValueError(f"tx: its state differs from the one given: {error}") from None
    return resized


def falling_density(
    step: int, *, steps: int, start: float = 0.25, end: float = 0.05
) -> float:
    """Let the density fall on a line: AdaFRUGAL's.

    Args:
      step: 0-based, of the run.
      steps: of the whole run, T, at least 1.
      start: density at step 0, in [0, 1].
      end: density from step T on, at most start. The defaults are AdaFRUGAL's.

    Returns:
      The density. Round it to a few stairs, such as `round(20 * density) / 20`, before
      making a transformation of it.

    Raises:
      ValueError: where an argument is outside its range.
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
    """Let the gap grow where the validation loss has settled: AdaFRUGAL's rule.

    Args:
      gap: steps between refreshes now, at least 1; AdaFRUGAL starts with 100.
      loss_change: of the validation loss since the last time this was asked; every
        5000 steps in AdaFRUGAL.
      threshold: the loss has settled where it changed by less.
      factor: of growth, at least 1.
      largest: gap, at least `gap`. The defaults are AdaFRUGAL's.

    Returns:
      The gap from now on, rounded down.

    Raises:
      ValueError: where an argument is outside its range.
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
    made: Any = jax.tree.structure(new.rest)
    if made != jax.tree.structure(old.rest):
        raise ValueError("other arrays are split")
    clocks = old.clocks if len(old.clocks) == len(new.clocks) else new.clocks
    return new._replace(
        count=old.count,
        clocks=tuple(map(expire_clock, clocks)),
        rest=old.rest,
    )
