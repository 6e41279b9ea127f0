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

Ours differs: subspaces by strata and of whole layers (see `optim.subspace`), a
residual's rounding is zero, nothing random is state, and stacks of layers are cut as
they lie. Adam's moments take 8 (N_rest + density N_matrices) bytes in float32 where
AdamW takes 8 N; the SVD adds its basis. Only the matrices' part is saved: in a small
model with a large vocabulary that is little.

Clipping by the global norm before it scales the state-full part alone: a sign has no
length. A gradient entry that is not finite counts as 0; it reaches no state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from lostjax.optim.matrices import MatricesOrRule
from lostjax.optim.parts import SplitTree, read_clocks, split_tree
from lostjax.optim.refresh import RESET, RefreshRule, carry_state
from lostjax.optim.strata import rows
from lostjax.optim.subspace import Subspace
from lostjax.typing import PyTree


class FrugalState(NamedTuple):
    """What FRUGAL remembers."""

    count: jax.Array  # type: ignore[assignment]  # optax's name, and tuple.count's
    """Updates so far, int32."""
    full: tuple[optax.OptState, ...]
    """State of `state_full` on the kept parts, one for each group of matrices that
    refreshes together; () at density 0."""
    rest: optax.OptState
    """State of `state_full` on the arrays that are not split."""
    basis: PyTree
    """Bases of a stored subspace (`gradient_svd`); () for the others."""


def scale_by_frugal(
    *,
    density: float = 0.25,
    update_gap: int = 200,
    subspace: Subspace | None = None,
    state_full: optax.GradientTransformation | None = None,
    state_free: optax.GradientTransformation | None = None,
    free_scale: float = 1.0,
    on_refresh: RefreshRule = RESET,
    matrices: MatricesOrRule | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Split gradients of matrices into a part with state and a part without.

    Args:
      density: share of each matrix that keeps a state, in [0, 1], a Python number (it
        makes shapes: name it in `static_args` of `optax.inject_hyperparams`). 0 keeps
        nothing; 1 keeps all and has no state-free part, whatever the subspace.
      update_gap: steps between refreshes, at least 1.
      subspace: which part; None for `rows()`.
      state_full: any transformation that needs no parameters; None for
        `optax.scale_by_adam()`. The arrays that are not split take it too.
      state_free: any transformation that keeps no arrays: `optax.scale_by_sign()` (for
        None), `optax.identity()` (SGD), `optax.set_to_zero()` (nothing).
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
    _check_numbers(density, update_gap)
    subspace = rows() if subspace is None else subspace
    full_tx = optax.with_extra_args_support(state_full or optax.scale_by_adam())
    free_tx = optax.with_extra_args_support(state_free or optax.scale_by_sign())

    def split(tree: PyTree) -> SplitTree:
        return split_tree(tree, subspace, density=density, matrices=matrices)

    def init(params: PyTree) -> FrugalState:
        tree = split(params)
        zeros = dict(enumerate(map(jnp.zeros_like, tree.leaves)))
        bases, full = {}, []
        for group in tree.groups:
            kept = {}
            for i, matrix in group.items():
                bases[i] = matrix.first_basis(zeros[i], seed=seed)
                kept[i] = matrix.restrict(zeros[i], bases[i])
            full.append(full_tx.init(tree.build(kept)))
        if jax.tree.leaves(free_tx.init(tree.build(zeros))):
            raise ValueError("state_free: keeps arrays; pass it as state_full instead")
        return FrugalState(
            count=jnp.zeros((), jnp.int32),
            full=tuple(full),
            rest=full_tx.init(tree.build({i: zeros[i] for i in tree.rest})),
            basis=tree.build(bases) if tree.stores else (),
        )

    def update(
        updates: PyTree, state: FrugalState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, FrugalState]:
        del params  # of other shapes than the kept parts
        tree = split(updates)
        grads = {i: jnp.where(jnp.isfinite(g), g, 0) for i, g in enumerate(tree.leaves)}
        rest = tree.build({i: grads[i] for i in tree.rest})
        moved, rest_state = full_tx.update(rest, state.rest, None, **extra)
        steps = tree.read(moved, tree.rest)
        free = {} if density else {i: grads[i] for i in tree.matrices}
        bases, full = {}, []
        clocks = read_clocks(state.count, update_gap, len(tree.groups))
        old = tree.read(state.basis, tree.matrices) if tree.stores else {}
        for group, clock, inner in zip(tree.groups, clocks, state.full, strict=True):
            kept, carries = {}, {}
            for i, matrix in group.items():
                basis = matrix.basis(grads[i], seed=seed, clock=clock, old=old.get(i))
                kept[i] = matrix.restrict(grads[i], basis)
                carries[i] = matrix.carries(
                    grads[i], basis, seed=seed, clock=clock, old=old.get(i)
                )
                if density < 1:
                    free[i] = matrix.residual(grads[i], kept[i], basis)
                bases[i] = basis
            parts = tree.build(kept)
            inner = on_refresh.renew(
                clock.due,
                inner,
                fresh=full_tx.init(jax.tree.map(jnp.zeros_like, parts)),
                carried=partial(carry_state, inner, tree.build(carries)),
            )
            moved, inner = full_tx.update(parts, inner, None, **extra)
            full.append(inner)
            for i, step in tree.read(moved, group).items():
                steps[i] = group[i].expand(step, bases[i], like=grads[i])
        residuals = tree.build(free)
        moved, _ = free_tx.update(residuals, free_tx.init(residuals), None, **extra)
        for i, step in tree.read(moved, free).items():
            scaled = (free_scale * step).astype(step.dtype)
            steps[i] = steps[i] + scaled if i in steps else scaled
        new = FrugalState(
            count=optax.safe_increment(state.count),
            full=tuple(full),
            rest=rest_state,
            basis=tree.build(bases) if tree.stores else (),
        )
        return tree.build(steps), new

    return optax.GradientTransformationExtraArgs(init, update)


def frugal(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    density: float = 0.25,
    update_gap: int = 200,
    subspace: Subspace | None = None,
    state_free: optax.GradientTransformation | None = None,
    free_scale: float = 1.0,
    on_refresh: RefreshRule = RESET,
    matrices: MatricesOrRule | None = None,
    seed: int = 0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    mu_dtype: DTypeLike | None = None,
    weight_decay: float = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FRUGAL: Adam's state for a quarter of each matrix, sign descent for the rest.

    A complete optimiser on any tree. The defaults are those of the authors' scripts,
    their learning rate included, with rows, which every matrix has, for blocks.

    Args:
      learning_rate: a number, or a schedule of the step.
      density: share of each matrix with a state, in [0, 1]; see `scale_by_frugal`.
      update_gap: steps between refreshes, at least 1.
      subspace: which part has a state; None for `rows()`.
      state_free: what the other part does; None for `optax.scale_by_sign()`.
      free_scale: learning rate of that part relative to the other's (the authors
        fine-tune with 0.1).
      on_refresh: RESET, KEEP, or REPROJECT.
      matrices: which arrays are split; None for `find_matrices`.
      seed: of every random choice.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: added to the root of the second moment.
      mu_dtype: type of the first moment; None for the gradient's.
      weight_decay: decoupled, times the learning rate.
      mask: which arrays decay, as in `optax.adamw`; None for all.

    Returns:
      The transformation, descending: add its updates to the parameters.

    Raises:
      ValueError: see `scale_by_frugal`.

    Example:
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lostjax.optim.frugal())
      >>> state = tx.init(params)
    """
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    decays = not isinstance(weight_decay, (int, float)) or weight_decay != 0
    return optax.chain(
        scale_by_frugal(
            density=density,
            update_gap=update_gap,
            subspace=subspace,
            state_full=adam,
            state_free=state_free,
            free_scale=free_scale,
            on_refresh=on_refresh,
            matrices=matrices,
            seed=seed,
        ),
        # Adding 0 * params would read every parameter for nothing.
        optax.add_decayed_weights(weight_decay, mask) if decays else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def _check_numbers(density: float, update_gap: ArrayLike) -> None:
    if not isinstance(density, (int, float)):
        raise ValueError(
            f"density={density}: must be a Python number, for it decides shapes; under "
            "optax.inject_hyperparams name it in static_args=('density',)"
        )
    if not 0 <= density <= 1:
        raise ValueError(f"density={density}: must lie in [0, 1]")
    if isinstance(update_gap, int) and update_gap < 1:
        raise ValueError(f"update_gap={update_gap}: must be at least 1")
