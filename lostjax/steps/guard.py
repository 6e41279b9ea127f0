"""What keeps a wrong number out of a run's state: updates that are not taken.

An update is taken where loss and gradient norm are finite numbers, and, where that is
asked for, where the loss is no spike:

    loss_t <= mean + sigma * deviation       of the losses before t

Otherwise parameters, optimiser state and past outputs stay as they are, bit for bit;
the step and the data go on. Mean and variance are those of all losses until `window` of
them are known, and then reach back about so many steps:

    a = 1 / min(t + 1, window)      d = min(loss, limit) - mean
    mean += a d                     variance = (1 - a) (variance + a d^2)

A loss that is not finite is no spike. A spike counts as the limit itself, so that one
hardly moves the window, and a loss that stays higher is the usual one after some steps.
All of it is in the state of the run: a decision is a pure function of the steps before,
and a resumed run decides alike. `train.rollback` goes back from spikes instead.

Gradients whose squares overflow float32 (a norm past 1.8e19) are not finite here: their
second moments would not be either. Within that bound what Adam, signs and Muon make of
gradients is finite. A decomposition may fail on them nevertheless, so that there the
norm of the updates must be finite, too; not elsewhere, for all new moments have to be
kept beside the old ones until that norm is known.

The optimiser stands in a branch of `jax.lax.cond`, and works in place there. Choosing
between old and new numbers by `jnp.where` would keep both: on a CPU it takes as long
again as the whole update. `benchmarks/guarded_step.py` measures what the guard costs.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import Array, Bool, Float, Int, PyTree


class Guard(NamedTuple):
    """When an update is not taken, besides numbers that are not finite."""

    patience: int = 0
    """Updates not taken in a row after which none is taken any more, so that the state
    waits for whoever looks at it; 0: there is no such number."""
    sigma: float | None = None
    """Deviations above the mean past which a loss is a spike; None: none is."""
    window: int = 100
    """Losses before the first one that can be a spike, at least 2."""
    check_updates: bool = False
    """Whether updates, too, must be finite; they are kept until that is known."""


class GuardState(NamedTuple):
    """What a guard knows of the steps before."""

    skipped: Int[Array, ""]
    """Updates not taken so far, int32."""
    in_a_row: Int[Array, ""]
    """Those since the last update that was taken, int32."""
    losses: Int[Array, ""]
    """Losses in the window, int32."""
    mean: Float[Array, ""]
    """Their mean, float32."""
    variance: Float[Array, ""]
    """Their variance, float32."""
    anchor: Int[Array, ""]
    """Step of the checkpoint that a spike goes back to, int32: see `train.rollback`."""
    rollbacks: Int[Array, ""]
    """Times that the run went back so far, int32."""


class Updated(NamedTuple):
    """What `update_if` gives."""

    taken: Bool[Array, ""]
    """Whether the update was taken."""
    params: PyTree
    opt_state: PyTree
    updates: PyTree
    """What was added to the parameters; zeros where it was not taken."""


def init_guard() -> GuardState:
    """Make the state of a guard that knows nothing."""
    # Each leaf an array of its own: a step takes their buffers.
    whole = partial(jnp.zeros, (), jnp.int32)
    real = partial(jnp.zeros, (), jnp.float32)
    return GuardState(whole(), whole(), whole(), real(), real(), whole(), whole())


def is_fit(
    guard: Guard, state: GuardState, *, loss: jax.Array, norm: jax.Array
) -> Bool[Array, ""]:
    """Decide whether an update is taken; pure.

    Args:
      guard: by which rule.
      state: of the steps before.
      loss: of the step.
      norm: of its gradient.
    """
    fit = jnp.isfinite(loss) & jnp.isfinite(norm)
    if guard.sigma is not None:
        fit &= ~is_spike(guard, state, loss=loss)
    if guard.patience:
        fit &= state.in_a_row < guard.patience
    return fit


def is_spike(guard: Guard, state: GuardState, *, loss: jax.Array) -> Bool[Array, ""]:
    """Decide whether a loss is a spike: a finite number, but past the limit."""
    return jnp.isfinite(loss) & (loss > spike_limit(guard, state))


def update_if(
    fit: jax.Array,
    tx: optax.GradientTransformation,
    *,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    check_updates: bool,
) -> Updated:
    """Take an update, or leave all as it is.

    Args:
      fit: whether to take it.
      tx: the optimiser.
      grads: the gradient.
      opt_state: of the optimiser; may be donated.
      params: the parameters; may be donated.
      check_updates: see `Guard`.
    """

    def leave(grads: PyTree, opt_state: PyTree, params: PyTree) -> Updated:
        nothing = jax.tree.map(jnp.zeros_like, params)
        return Updated(jnp.bool(False), params, opt_state, nothing)

    def take(grads: PyTree, opt_state: PyTree, params: PyTree) -> Updated:
        updates, after = tx.update(grads, opt_state, params)
        made = Updated(
            jnp.bool(True), optax.apply_updates(params, updates), after, updates
        )
        if not check_updates:
            return made
        finite = jnp.isfinite(optax.tree.norm(updates))
        left = leave(grads, opt_state, params)
        chosen: Updated = jax.tree.map(partial(jnp.where, finite), made, left)
        return chosen

    updated: Updated = jax.lax.cond(fit, take, leave, grads, opt_state, params)
    return updated


def count_update(
    guard: Guard, state: GuardState, *, taken: jax.Array, loss: jax.Array
) -> GuardState:
    """Give the guard's state after a step whose update was taken or not."""
    one = 1 - taken.astype(jnp.int32)
    counted = state._replace(
        skipped=state.skipped + one, in_a_row=(state.in_a_row + one) * one
    )
    return counted if guard.sigma is None else _widen(guard, counted, loss)


def spike_limit(guard: Guard, state: GuardState) -> Float[Array, ""]:
    """Give the loss past which the next one is a spike; infinite where none can be."""
    if guard.sigma is None:
        return jnp.full((), jnp.inf)
    limit = state.mean + guard.sigma * jnp.sqrt(state.variance)
    return jnp.where(state.losses >= guard.window, limit, jnp.inf)


def _widen(guard: Guard, state: GuardState, loss: jax.Array) -> GuardState:
    """Let a loss into the window, but for one that is not finite."""
    losses = jnp.minimum(state.losses + 1, guard.window)
    share = 1 / losses.astype(jnp.float32)
    difference = jnp.minimum(loss, spike_limit(guard, state)) - state.mean
    mean = state.mean + share * difference
    variance = (1 - share) * (state.variance + share * difference**2)
    finite = jnp.isfinite(loss)
    return state._replace(
        losses=jnp.where(finite, losses, state.losses),
        mean=jnp.where(finite, mean, state.mean),
        variance=jnp.where(finite, variance, state.variance),
    )
