"""FRUGAL: Adam in a small subspace of each matrix, sign descent in the rest of it.

    g_full = restrict(g)                    g_free = g - expand(g_full)
    u = expand(state_full(g_full)) + free_scale * state_free(g_free)

This applies to the matrices of layers (`find_matrices`); embeddings, norms and the
output head keep their full state. Every `update_gap` steps the subspace is redrawn and
its moments restart. Adam's first step after a reset is a sign step as well, so the two
parts match; this motivates free_scale = 1.

"FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", Zmushko et al., 2024, arXiv:2411.07837. With `state_free=optax.set_to_zero()`
it becomes BAdam (on `blocks`) or GaLore (on `gradient_svd`, KEEP).

This implementation differs from the authors': subspaces consist of strata or of whole
layers (see `optim.splitting.subspace`), rounding errors in a residual are set to zero,
no random state is stored, and stacks of layers are cut in place. Adam's moments take 8
(N_rest + density N_matrices) bytes in float32, against 8 N for AdamW; the SVD adds its
basis. Only the matrices' part shrinks, so a small model with a large vocabulary saves
little.

Limit cases, on the matrices: density 1 with KEEP is `optax.adam`, operation for
operation. It is equal bit for bit if operations run one by one; under a compiler,
preceding operations such as the check for finite gradients change the fusion of Adam's.
Density 0 is sign descent, and stores no array.

The state is sharded like the parameters (`optim.splitting.placement`).

Clipping by the global norm before this transformation scales only the part with state,
because a sign has no length. A gradient entry that is not finite counts as 0 and
reaches no state. `optax.MultiSteps` around this transformation stores a whole gradient,
more than all the state here, and runs the update at every micro-step, including any SVD
that is due.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.optim.splitting.arguments import (
    check_density,
    check_gap,
    check_number,
    check_rule,
    check_rule_or_tree,
    check_subspace,
    check_transformation,
)
from lostjax.optim.splitting.cuts.parts import SplitTree, split_tree
from lostjax.optim.splitting.cuts.pieces import Piece
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.optim.splitting.nonfinite import count_nonfinite, zero_nonfinite
from lostjax.optim.splitting.placement import follow_params
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
from lostjax.optim.splitting.subspace import Subspace, start_draw
from lostjax.typing import PyTree, Scalar


class FrugalState(NamedTuple):
    """State of `scale_by_frugal`."""

    count: jax.Array  # type: ignore[assignment]  # optax's name, and tuple.count's
    """Number of updates so far, int32."""
    clocks: tuple[Clock, ...]
    """One clock per group of matrices that refresh together; () at density 0."""
    full: tuple[optax.OptState, ...]
    """State of `state_full` for the kept parts of each group; () at density 0."""
    rest: optax.OptState
    """State of `state_full` for the arrays that are not split."""
    basis: PyTree
    """Bases of a stored subspace (`gradient_svd`); () for other subspaces."""
    nonfinite: jax.Array
    """Number of gradient entries that were not finite and counted as 0, so far, int32;
    stays at the largest int32."""


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
    """Split the gradients of matrices into a part with state and a part without.

    Args:
      density: share of each matrix that has state, a Python number in [0, 1]. It
        determines shapes: list it in `static_args` of `optax.inject_hyperparams`. 0
        keeps nothing; 1 keeps everything and has no state-free part, for any subspace.
      update_gap: steps between refreshes, in [1, 2^31); may be traced and may change.
      subspace: the part with state; None for `rows()`.
      state_full: any transformation; None for `optax.scale_by_adam()`. Its `init`
        receives zeros in the shapes of the kept parts, its `update` the parameters cut
        like the gradients. It also updates the arrays that are not split.
      state_free: any transformation without arrays as state that needs no parameters:
        `optax.scale_by_sign()` (the default for None), `optax.identity()` (SGD),
        `optax.set_to_zero()` (nothing).
      free_scale: weight of the state-free part.
      on_refresh: treatment of the state at a refresh: RESET, KEEP, or REPROJECT.
      matrices: the arrays to split and their axes, see `MatricesOrRule`; None for
        `find_matrices`.
      seed: seed of all random choices.

    Returns:
      The transformation. Its updates have the shapes and types of the gradients; an
      empty tree is returned unchanged.

    Raises:
      ValueError: if an argument is out of range; from `init`, if an array is not of a
        real float type or a subspace does not fit it (the message names the array).
    """
    check_gap(update_gap)
    check_number("free_scale", free_scale)
    check_number("seed", seed)
    check_rule_or_tree("matrices", matrices)
    rule = _Frugal(
        density=check_density(density),
        update_gap=update_gap,
        subspace=rows() if subspace is None else check_subspace(subspace),
        state_full=check_transformation(
            "state_full",
            optax.scale_by_adam() if state_full is None else state_full,
            default="optax.scale_by_adam()",
        ),
        state_free=check_transformation(
            "state_free",
            optax.scale_by_sign() if state_free is None else state_free,
            default="optax.scale_by_sign()",
        ),
        free_scale=free_scale,
        on_refresh=check_rule(on_refresh),
        matrices=matrices,
        seed=seed,
    )
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


class _Frugal(NamedTuple):
    """The arguments of `scale_by_frugal`, with its init and update functions."""

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
        # eval_shape: the check must not allocate what it forbids.
        if jax.tree.leaves(jax.eval_shape(self.state_free.init, free)):
            raise ValueError("state_free: has arrays as state; pass it as state_full")
        # One state per group: groups refresh at different steps.
        full, bases = [], {}
        draw = start_draw(self.seed, 0)
        for group in tree.groups:
            kept = {}
            for i, matrix in group.items():
                kept[i], bases[i] = matrix.start(tree.leaves[i], draw=draw)
            parts = tree.build(kept)
            full.append(follow_params(self.state_full.init(parts), parts))
        others = tree.build(tree.pick(tree.rest))
        return FrugalState(
            count=jnp.zeros((), jnp.int32),
            clocks=start_clocks(self.update_gap, len(tree.groups)),
            full=tuple(full),
            rest=follow_params(self.state_full.init(others), others),
            basis=tree.build(bases) if tree.stores else (),
            nonfinite=jnp.zeros((), jnp.int32),
        )

    def update(
        self, updates: PyTree, state: FrugalState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, FrugalState]:
        tree = self._split(updates)
        # Entry by entry, before anything else: one NaN in an SVD or a moment would stay
        # for ever.
        tree = tree._replace(leaves=[zero_nonfinite(x) for x in tree.leaves])
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
        free = self._step_free(tree, pieces, extra=extra)
        full = []
        for group, tick, inner in zip(tree.groups, ticks, state.full, strict=True):
            inner = self._renew(
                tree, inner, due=tick.due, pieces={i: pieces[i] for i in group}
            )
            kept = {i: pieces[i].kept for i in group}
            known = None
            if every is not None:
                # Cut parameters like gradients, so that weight decay in `state_full`
                # matches.
                known = {i: group[i].restrict(every[i], pieces[i]) for i in group}
            moved, inner = tree.step(
                self.state_full, kept, inner, params=known, extra=extra
            )
            free |= {
                i: group[i].join(moved[i], pieces[i], free=free.get(i)) for i in group
            }
            full.append(inner)
        bases = {i: piece.saved for i, piece in pieces.items()}
        return tree.build(steps | free), FrugalState(
            # safe_increment stops at the largest int32 instead of wrapping to a first
            # update.
            count=optax.safe_increment(state.count),
            clocks=clocks,
            full=tuple(full),
            rest=rest,
            basis=tree.build(bases) if tree.stores else (),
            nonfinite=count_nonfinite(updates, so_far=state.nonfinite),
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
        pieces = {}
        for group, tick in zip(tree.groups, ticks, strict=True):
            draw = start_draw(self.seed, tick.refresh)
            before = partial(start_draw, self.seed, tick.before)
            # Drawn once for all leaves of a shape.
            tables: dict[Any, jax.Array | None] = {None: None}
            for shape in dict.fromkeys(m.cut.table for m in group.values()):
                tables[shape] = None if shape is None else draw.make_table(shape)
            for i, matrix in group.items():
                table = tables[matrix.cut.table]
                pieces[i] = matrix.split(
                    tree.leaves[i],
                    draw=draw._replace(table=table),
                    before=before,
                    due=tick.due,
                    old=old.get(i),
                )
        return pieces

    def _renew(
        self,
        tree: SplitTree,
        inner: optax.OptState,
        *,
        due: jax.Array,
        pieces: dict[int, Piece],
    ) -> optax.OptState:
        """Apply the refresh rule to the state of a group."""
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
        """Update the parts without state; at density 1 there are none."""
        if self.density == 1:
            return {}
        rests = {i: piece.rest for i, piece in pieces.items()}
        parts = rests if pieces else tree.pick(tree.matrices)
        # No arrays in this state (checked in `init`), so it is rebuilt instead of
        # stored.
        empty = self.state_free.init(tree.build(parts))
        steps, _ = tree.step(self.state_free, parts, empty, extra=extra)
        if isinstance(self.free_scale, (int, float)) and self.free_scale == 1:
            return steps
        # Cast back: a traced float32 scale would widen bfloat16 updates.
        return {i: (self.free_scale * s).astype(s.dtype) for i, s in steps.items()}
