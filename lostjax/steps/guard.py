"""Protection of a run's state against bad numbers: updates that the guard skips.

An update is taken if the loss and the gradient norm are finite and, if `sigma` is set,
the loss is not a spike:

    loss_t <= mean + sigma * deviation       of the losses before t

If an update is skipped, the parameters, the optimiser state and the past outputs stay
the same, bit for bit; the step counter and the data advance. Mean and variance are
those of all losses until `window` losses are known. After that they are exponential
averages over about `window` steps:

    a = 1 / min(t + 1, window)      d = min(loss, limit) - mean
    mean += a d                     variance = (1 - a) (variance + a d^2)

A loss that is not finite is not a spike. A spike enters the window with the value of
the limit, so a single spike hardly moves the window, while a loss that stays high
becomes normal after some steps. All of this is part of the run's state: each decision
is a pure function of the steps before it, and a resumed run makes the same decisions.
`train.rollback` rolls back after spikes instead.

A gradient whose squares overflow float32 (norm above 1.8e19) counts as not finite here,
because its second moments would overflow as well. Below this bound the updates of Adam,
sign descent and Muon are finite. A matrix decomposition can still fail, so
`check_updates` additionally requires a finite norm of the updates. It is off for other
optimisers, because it keeps all new moments beside the old ones until that norm is
known.

The optimiser runs inside a branch of `jax.lax.cond` and updates in place there. A
choice between old and new values by `jnp.where` would keep both; on a CPU it takes as
long again as the whole update. `benchmarks/guarded_step.py` measures the cost of the
guard.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import Array, Bool, Float, Int, PyTree


class Guard(NamedTuple):
    """Conditions for skipping an update, in addition to numbers that are not finite."""

    patience: int = 0
    """Skipped updates in a row after which all further updates are skipped, so that the
    state is preserved for inspection; 0 for no limit."""
    sigma: float | None = None
    """Standard deviations above the mean beyond which a loss is a spike; None disables
    the detection of spikes."""
    window: int = 100
    """Number of losses needed before one can be a spike, at least 2; also the averaging
    length."""
    check_updates: bool = False
    """Whether the updates must be finite as well; keeps old and new state until known.
    """


class GuardState(NamedTuple):
    """The guard's record of earlier steps."""

    skipped: Int[Array, ""]
    """Updates skipped so far, int32."""
    in_a_row: Int[Array, ""]
    """Updates skipped since the last one taken, int32."""
    losses: Int[Array, ""]
    """Number of losses in the window, int32."""
    mean: Float[Array, ""]
    """Mean of the losses in the window, float32."""
    variance: Float[Array, ""]
    """Variance of the losses in the window, float32."""
    anchor: Int[Array, ""]
    """Step of the checkpoint to roll back to after a spike, int32: see
    `train.rollback`."""
    rollbacks: Int[Array, ""]
    """Number of rollbacks so far, int32."""


class Updated(NamedTuple):
    """The result of `update_if`."""

    taken: Bool[Array, ""]
    """Whether the update was taken."""
    params: PyTree
    opt_state: PyTree
    updates: PyTree
    """The updates added to the parameters; zeros if the update was skipped."""


def init_guard() -> GuardState:
    """Build the initial state of a guard, with an empty window."""
    # One array per leaf: a step donates all buffers, and each can be donated only once.
    whole = partial(jnp.zeros, (), jnp.int32)
    real = partial(jnp.zeros, (), jnp.float32)
    return GuardState(whole(), whole(), whole(), real(), real(), whole(), whole())


def is_fit(
    guard: Guard, state: GuardState, *, loss: jax.Array, norm: jax.Array
) -> Bool[Array, ""]:
    """Decide whether to take an update; pure.

    Args:
      guard: the rule.
      state: record of the steps before this one.
      loss: loss of this step, a scalar.
      norm: global norm of its gradient, a scalar.

    Returns:
      A boolean scalar, True if the update is to be taken.
    """
    fit = jnp.isfinite(loss) & jnp.isfinite(norm)
    if guard.sigma is not None:
        fit &= ~is_spike(guard, state, loss=loss)
    if guard.patience:
        # Once reached, the count can only grow: the state waits for a person.
        fit &= state.in_a_row < guard.patience
    return fit


def is_spike(guard: Guard, state: GuardState, *, loss: jax.Array) -> Bool[Array, ""]:
    """Decide whether a loss is a spike: finite and above the limit."""
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
    """Apply an update if `fit`, else return everything unchanged.

    Args:
      fit: boolean scalar, whether to take the update.
      tx: the optimiser.
      grads: gradients, a tree like `params`.
      opt_state: state of the optimiser; its buffers may be donated.
      params: parameters; their buffers may be donated.
      check_updates: see `Guard.check_updates`.

    Returns:
      The new or unchanged parameters, optimiser state and updates.
    """

    def leave(grads: PyTree, opt_state: PyTree, params: PyTree) -> Updated:
        # Both branches of cond must return the same structure and types.
        nothing = jax.tree.map(jnp.zeros_like, params)
        return Updated(jnp.bool(False), params, opt_state, nothing)

    def take(grads: PyTree, opt_state: PyTree, params: PyTree) -> Updated:
        updates, after = tx.update(grads, opt_state, params)
        made = Updated(
            jnp.bool(True), optax.apply_updates(params, updates), after, updates
        )
        if not check_updates:
            return made
        # One norm instead of a test per entry: a NaN or infinity in any leaf makes it
        # non-finite.
        finite = jnp.isfinite(optax.tree.norm(updates))
        left = leave(grads, opt_state, params)
        chosen: Updated = jax.tree.map(partial(jnp.where, finite), made, left)
        return chosen

    # cond, not where: only the branch that runs costs time, and it works in place.
    updated: Updated = jax.lax.cond(fit, take, leave, grads, opt_state, params)
    return updated


def count_update(
    guard: Guard, state: GuardState, *, taken: jax.Array, loss: jax.Array
) -> GuardState:
    """Return the guard's state after a step.

    Args:
      guard: the rule.
      state: record of the steps before this one.
      taken: boolean scalar, whether the update was taken.
      loss: loss of this step, a scalar.

    Returns:
      The record that includes this step.
    """
    one = 1 - taken.astype(jnp.int32)
    counted = state._replace(
        # The product resets the count to 0 without a branch.
        skipped=state.skipped + one,
        in_a_row=(state.in_a_row + one) * one,
    )
    return counted if guard.sigma is None else _widen(guard, counted, loss)


def spike_limit(guard: Guard, state: GuardState) -> Float[Array, ""]:
    """Compute the loss above which a loss is a spike; infinite while there is none.

    The limit is infinite if `sigma` is None or fewer than `window` losses are known.
    """
    if guard.sigma is None:
        return jnp.full((), jnp.inf)
    limit = state.mean + guard.sigma * jnp.sqrt(state.variance)
    return jnp.where(state.losses >= guard.window, limit, jnp.inf)


def _widen(guard: Guard, state: GuardState, loss: jax.Array) -> GuardState:
    """Add a finite loss to the window; ignore one that is not finite."""
    losses = jnp.minimum(state.losses + 1, guard.window)
    share = 1 / losses.astype(jnp.float32)
    # A spike counts as the limit, so that one outlier cannot raise the limit much.
    difference = jnp.minimum(loss, spike_limit(guard, state)) - state.mean
    mean = state.mean + share * difference
    # Incremental form (Welford): the mean of squares minus the squared mean would
    # cancel.
    variance = (1 - share) * (state.variance + share * difference**2)
    finite = jnp.isfinite(loss)
    return state._replace(
        losses=jnp.where(finite, losses, state.losses),
        mean=jnp.where(finite, mean, state.mean),
        variance=jnp.where(finite, variance, state.variance),
    )
