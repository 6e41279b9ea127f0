"""FRUGAL: Adam in a small subspace of each matrix, sign descent in the rest of it.

    g_full = restrict(g)                    g_free = g - expand(g_full)
    u = expand(state_full(g_full)) + free_scale * state_free(g_free)

for the matrices of layers (`find_matrices`); embeddings, norms and the output head keep
a state of their own. Every `update_gap` steps the subspace is drawn anew and the
moments in it start again. Adam's first step after a reset is a sign step too, so the
seam does not show; free_scale = 1 comes from there.

"FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", Zmushko et al., 2024, arXiv:2411.07837. With `state_free=optax.set_to_zero()`
it is BAdam (on `blocks`) or GaLore (on `gradient_svd`, KEEP).

Ours differs: subspaces by strata and of whole layers (see
`optim.splitting.subspace`), a residual's rounding is zero, nothing random is state, and
stacks of layers are cut as they lie. Adam's moments take
8 (N_rest + density N_matrices) bytes in float32, AdamW's take 8 N; the SVD adds its
basis. Only the matrices' part is saved: in a small model with a large vocabulary that
is little.

Limits, on the matrices: density 1 with KEEP is `optax.adam`, operation for operation,
and bit for bit where operations run one by one; a compiler fuses those of Adam
otherwise behind anything that precedes them, such as the check for finite gradients
here. Density 0 is sign descent, and holds no array.

Clipping by the global norm before it scales the state-full part alone: a sign has no
length. A gradient entry that is not finite counts as 0; it reaches no state.
`optax.MultiSteps` around it keeps a whole gradient, more than all the state here, and
runs the update at every micro-step, an SVD that is due included.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.optim.splitting.parts import Piece, SplitTree, split_tree
from lostjax.optim.splitting.refresh import (
    RESET,
    Clock,
    RefreshRule,
    Tick,
    advance_clocks,
    carry_state,
    start_clocks,
)
from lostjax.optim.splitting.strata import rows
from lostjax.optim.splitting.subspace import Subspace
from lostjax.typing import PyTree, Scalar


class FrugalState(NamedTuple):
    """What FRUGAL remembers."""

    count: jax.Array  # type: ignore[assignment]  # optax's name, and tuple.count's
    """Updates so far, int32."""
    clocks: tuple[Clock, ...]
    """Where each group of matrices that refreshes together is; () at density 0."""
    full: tuple[optax.OptState, ...]
    """State of `state_full` on the kept parts of each group; () at density 0."""
    rest: optax.OptState
    """State of `state_full` on the arrays that are not split."""
    basis: PyTree
    """Bases of a stored subspace (`gradient_svd`); () for the others."""


def scale_by_frugal(
    *,
    density: Scalar = 0.25,
    update_gap: Scalar = 200,
    subspace: Subspace | None = None,
    state_full: optax.GradientTransformation | None = None,
    state_free: optax.GradientTransformation | None = None,
    free_scale: Scalar = 1.0,
    on_refresh: RefreshRule = RESET,
    matrices: MatricesOrRule | None = None,
    seed: Scalar = 0,
) -> optax.GradientTransformationExtraArgs:
    """Split gradients of matrices into a part with state and a part without.

    Args:
      density: share of each matrix that keeps a state, in [0, 1], a Python number (it
        makes shapes: name it in `static_args` of `optax.inject_hyperparams`). 0 keeps
        nothing; 1 keeps all and has no state-free part, whatever the subspace.
      update_gap: steps between refreshes, in [1, 2^31); may be traced, and change.
      subspace: which part; None for `rows()`.
      state_full: any transformation; None for `optax.scale_by_adam()`. Its `init` sees
        zeros of the kept parts' shapes, its `update` the parameters cut as the
        gradients are. The arrays that are not split take it too.
      state_free: any transformation without arrays or parameters:
        `optax.scale_by_sign()` (for None), `optax.identity()` (SGD),
        `optax.set_to_zero()` (nothing).
      free_scale: weight of the state-free part.
      on_refresh: what becomes of the state at a refresh: RESET, KEEP, or REPROJECT.
      matrices: which arrays are split and how, see `MatricesOrRule`; None for
        `find_matrices`.
      seed: of every random choice.

    Returns:
      The transformation. Its updates have the gradients' shapes and types; an empty
      tree is returned as it is.

    Raises:
      ValueError: where an argument is outside its range; from `init`, naming the array:
        where one is not of a real float type, or a subspace does not fit it.
    """
    _check_gap(update_gap)
    rule = _Frugal(
        density=check_density(density),
        update_gap=update_gap,
        subspace=rows() if subspace is None else subspace,
        state_full=optax.with_extra_args_support(state_full or optax.scale_by_adam()),
        state_free=optax.with_extra_args_support(state_free or optax.scale_by_sign()),
        free_scale=free_scale,
        on_refresh=on_refresh,
        matrices=matrices,
        seed=seed,
    )
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def check_density(density: Scalar) -> float:
    """Give a density as a float.

    Raises:
      ValueError: where it is no Python number, or outside [0, 1].
    """
    if not isinstance(density, (int, float)):
        raise ValueError(
            f"density={density}: must be a Python number, for it decides shapes; under "
            "optax.inject_hyperparams name it in static_args=('density',)"
        )
    if not 0 <= density <= 1:
        raise ValueError(f"density={density}: must lie in [0, 1]")
    return float(density)


class _Frugal(NamedTuple):
    """The arguments of `scale_by_frugal`, and what it does with them."""

    density: float
    update_gap: Scalar
    subspace: Subspace
    state_full: optax.GradientTransformationExtraArgs
    state_free: optax.GradientTransformationExtraArgs
    free_scale: Scalar
    on_refresh: RefreshRule
    matrices: MatricesOrRule | None
    seed: Scalar

    def init(self, params: PyTree) -> FrugalState:
        tree = self._split(params)
        free = tree.build(tree.pick(tree.matrices))
        if jax.tree.leaves(jax.eval_shape(self.state_free.init, free)):
            raise ValueError("state_free: keeps arrays; pass it as state_full instead")
        full, bases = [], {}
        for group in tree.groups:
            kept = {}
            for i, matrix in group.items():
                kept[i], bases[i] = matrix.start(tree.leaves[i], seed=self.seed)
            full.append(self.state_full.init(tree.build(kept)))
        return FrugalState(
            count=jnp.zeros((), jnp.int32),
            clocks=start_clocks(self.update_gap, len(tree.groups)),
            full=tuple(full),
            rest=self.state_full.init(tree.build(tree.pick(tree.rest))),
            basis=tree.build(bases) if tree.stores else (),
        )

    def update(
        self, updates: PyTree, state: FrugalState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, FrugalState]:
        finite = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), updates)
        tree = self._split(finite)
        ticks, clocks = advance_clocks(
            state.clocks, gap=self.update_gap, is_first=state.count == 0
        )
        pieces = self._cut(tree, state, ticks)
        every = None if params is None else tree.read(params, range(len(tree.leaves)))
        steps, rest = tree.step(
            self.state_full,
            tree.pick(tree.rest),
            state.rest,
            params=None if every is None else {i: every[i] for i in tree.rest},
            extra=extra,
        )
        full = []
        for group, tick, inner in zip(tree.groups, ticks, state.full, strict=True):
            inner = self._renew(
                tree, inner, due=tick.due, pieces={i: pieces[i] for i in group}
            )
            kept = {i: pieces[i].kept for i in group}
            known = None
            if every is not None:
                known = {i: group[i].restrict(every[i], pieces[i]) for i in group}
            moved, inner = tree.step(
                self.state_full, kept, inner, params=known, extra=extra
            )
            steps |= {i: group[i].expand(moved[i], pieces[i]) for i in group}
            full.append(inner)
        for i, free in self._step_free(tree, pieces, extra=extra).items():
            steps[i] = steps[i] + free if i in steps else free
        bases = {i: piece.basis for i, piece in pieces.items()}
        return tree.build(steps), FrugalState(
            count=optax.safe_increment(state.count),
            clocks=clocks,
            full=tuple(full),
            rest=rest,
            basis=tree.build(bases) if tree.stores else (),
        )

    def _split(self, tree: PyTree) -> SplitTree:
        return split_tree(
            tree, self.subspace, density=self.density, matrices=self.matrices
        )

    def _cut(
        self, tree: SplitTree, state: FrugalState, ticks: Sequence[Tick]
    ) -> dict[int, Piece]:
        """Cut the gradient of every matrix that keeps a part."""
        old = tree.read(state.basis, tree.matrices) if tree.stores else {}
        return {
            i: matrix.split(tree.leaves[i], seed=self.seed, tick=tick, old=old.get(i))
            for group, tick in zip(tree.groups, ticks, strict=True)
            for i, matrix in group.items()
        }

    def _renew(
        self,
        tree: SplitTree,
        inner: optax.OptState,
        *,
        due: jax.Array,
        pieces: dict[int, Piece],
    ) -> optax.OptState:
        """Treat the state of a group by the rule, where a refresh is due."""
        zeros = {i: jnp.zeros_like(piece.kept) for i, piece in pieces.items()}
        carries = tree.build({i: piece.carries for i, piece in pieces.items()})
        return self.on_refresh.renew(
            due,
            inner,
            fresh=self.state_full.init(tree.build(zeros)),
            carried=partial(carry_state, inner, carries),
        )

    def _step_free(
        self, tree: SplitTree, pieces: dict[int, Piece], *, extra: dict[str, Any]
    ) -> dict[int, jax.Array]:
        """Step the parts without a state; at density 1 there are none."""
        if self.density == 1:
            return {}
        rests = {i: piece.rest for i, piece in pieces.items()}
        parts = rests if pieces else tree.pick(tree.matrices)
        empty = self.state_free.init(tree.build(parts))
        steps, _ = tree.step(self.state_free, parts, empty, extra=extra)
        return {i: (self.free_scale * s).astype(s.dtype) for i, s in steps.items()}


def _check_gap(update_gap: Scalar) -> None:
    if callable(update_gap):
        raise ValueError(
            f"update_gap={update_gap}: must be a number; optax.inject_hyperparams "
            "makes one of a schedule"
        )
    if isinstance(update_gap, jax.core.Tracer):
        return
    is_number = isinstance(update_gap, (int, float, np.number, np.ndarray, jax.Array))
    if not is_number or not 1 <= update_gap <= 2**31 - 1:
        raise ValueError(f"update_gap={update_gap!r}: must be a number in [1, 2^31)")
