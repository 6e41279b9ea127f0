"""Adversarial training, and its doubly robust form: hard examples count more.

    x_i' = an attack on example i                  l_i = loss at x_i'
    u    <- (1 - a) u + a mean_i exp(l_i / r)      over a batch
    w_i  = exp(l_i / r) / (B u)
    the step descends sum_i w_i l_i, with w fixed

Sow et al., "Doubly Robust Instance-Reweighted Adversarial Training", 2023,
arXiv:2308.00311, minimise r log mean exp(l / r) over all data, whose gradient weighs
examples so. A softmax over a batch would be a biased estimate of these weights, which
the running mean u corrects; we keep log u, because exp(l / r) overflows. How the worst
input answers to the parameters is part of the gradient of l_i. At an optimum of a log
barrier it is known (implicit differentiation): with a the value that is ascended and
h = c ((u - d)^-2 + (d - o)^-2) minus the barrier's second derivative,

    dl/dw = d_w l + d_w <d_x a, stop(d_x l / h)>

if a has no second derivative in x, as in a net of rectified linear units almost
everywhere. Our derivation of it; the paper's own text was not at hand beyond its
abstract and reviews.

Attack, weights and answer are functions that are passed, so that the same step is plain
adversarial training, TRADES (Zhang et al., "Theoretically Principled Trade-off between
Robustness and Accuracy", 2019, arXiv:1901.08573) by its losses, or a plain step.

Cost: the attack's passes; the answer's term is one more backward pass through another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.checks import require_positive
from lostjax.steps.robust.ascent import Barrier, ValueOf
from lostjax.typing import Array, Float, Key, PyTree, Scalar


class AttackedBatch(NamedTuple):
    """Examples that are attacked."""

    inputs: Any
    """Inputs (B, ...), as they are."""
    targets: Any
    """Any tree of leaves (B, ...)."""
    key: Key
    """Decides the attack."""


class AdversarialState(NamedTuple):
    """State of adversarial training."""

    step: jax.Array
    """Number of steps done, int32."""
    params: PyTree
    opt_state: PyTree
    log_mean: jax.Array
    """log u, the running mean of exp(l / r); minus infinity before the first step."""


class Weighed(NamedTuple):
    """Weights of a batch, and what is remembered."""

    weights_B: Float[Array, "B"]
    log_mean: Float[Array, ""]


AttackedLosses = Callable[[PyTree, Array, AttackedBatch], Array]
"""From parameters, inputs that were moved, and the batch to a loss an example."""
Attack = Callable[[ValueOf, Array, Key], Array]
"""From what is ascended, inputs and a key to inputs that were moved."""
Weigh = Callable[[Array, AdversarialState], Weighed]
"""From losses (B,) and the state to weights, without a gradient."""
Respond = Callable[[ValueOf, ValueOf, Array, Array], Array]
"""From what is ascended, the losses, inputs and moved inputs to values (B,) whose
gradient is added."""


def init_adversarial(
    params: PyTree, tx: optax.GradientTransformation
) -> AdversarialState:
    """Start adversarial training from parameters, which `tx` trains."""
    return AdversarialState(
        jnp.int32(0), params, tx.init(params), jnp.float32(-jnp.inf)
    )


def weigh_alike(losses_B: Array, state: AdversarialState) -> Weighed:
    """Weigh every example of a batch by 1 / B: plain adversarial training."""
    return Weighed(jnp.full(losses_B.shape, 1 / losses_B.size), state.log_mean)


def weigh_hard(
    *, temperature: Scalar, new_share: Scalar = 0.1, warm_up: int = 0
) -> Weigh:
    """Build the doubly robust weights, by a running mean over batches.

    Args:
      temperature: r > 0, in the unit of the losses; infinity weighs all alike. May be
        traced.
      new_share: a in (0, 1], of the newest batch in the running mean; 1 is a softmax
        over the batch.
      warm_up: steps in which all are weighed alike, while the mean is kept already.

    Returns:
      A function from losses (B,) and the state to weights (B,), which sum to 1 only on
      the mean over batches, and the new log u. A loss that is not finite makes all of
      them NaN.

    Raises:
      ValueError: a known number lies outside its range.
    """
    require_positive("temperature", temperature)
    require_positive("new_share", new_share)

    def weigh(losses_B: Array, state: AdversarialState) -> Weighed:
        raised_B = losses_B.astype(jnp.float32) / temperature
        batch = jax.nn.logsumexp(raised_B) - jnp.log(losses_B.size)
        mixed = jnp.logaddexp(
            jnp.log1p(-new_share) + state.log_mean, jnp.log(new_share) + batch
        )
        # The first batch is all there is: a mean from 0 would weigh it by 1 / a.
        log_mean = jnp.where(jnp.isneginf(state.log_mean), batch, mixed)
        weights_B = jnp.exp(raised_B - log_mean) / losses_B.size
        alike_B = jnp.full(losses_B.shape, 1 / losses_B.size)
        weights_B = jnp.where(state.step < warm_up, alike_B, weights_B)
        return Weighed(jax.lax.stop_gradient(weights_B), log_mean)

    return weigh


def respond_at(barrier: Barrier) -> Respond:
    """Build the answer of a barrier's optimum to the parameters.

    Args:
      barrier: that of the `barrier_ascent` which moved the inputs.

    Returns:
      A function to values <d_x a, stop(d_x l / h)>, (B,), for `make_adversarial_step`.
    """

    def respond(
        ascended: ValueOf, losses_at: ValueOf, inputs: Array, moved: Array
    ) -> Array:
        ascent = jax.grad(lambda x: jnp.sum(ascended(x)))(moved)
        slope = jax.grad(lambda x: jnp.sum(losses_at(x)))(moved)
        slope = jax.lax.stop_gradient(slope / barrier.curvature(inputs, moved))
        return jnp.sum((ascent * slope).reshape(len(inputs), -1), axis=1)

    return respond


def make_adversarial_step(
    losses_of: AttackedLosses,
    tx: optax.GradientTransformation,
    *,
    attack: Attack,
    ascended_of: AttackedLosses | None = None,
    weigh: Weigh = weigh_alike,
    respond: Respond | None = None,
) -> Callable[
    [AdversarialState, AttackedBatch], tuple[AdversarialState, dict[str, jax.Array]]
]:
    """Build a step of adversarial training.

    Args:
      losses_of: the losses that are descended, at the moved inputs.
      tx: trains the parameters.
      attack: moves the inputs, as `projected_ascent` or `barrier_ascent` with all but
        its value, inputs and key.
      ascended_of: what the attack ascends; default: the losses.
      weigh: weighs examples by their losses.
      respond: adds how moved inputs answer to the parameters; None for not.

    Returns:
      A pure step from the state and a batch. Metrics, scalars: "loss", the mean at the
      moved inputs; "counted", the share of examples that count in effect,
      (sum w)^2 / (B sum w^2).

    Example:
        barrier = Barrier(radius=0.1, weight=1e-4)
        step = make_adversarial_step(
            losses_of,
            tx,
            attack=lambda value, x, key: barrier_ascent(
                value, x, barrier=barrier, n_steps=7
            ),
            weigh=weigh_hard(temperature=2.0),
            respond=respond_at(barrier),
        )
    """
    ascended = losses_of if ascended_of is None else ascended_of

    def step(
        state: AdversarialState, batch: AttackedBatch
    ) -> tuple[AdversarialState, dict[str, jax.Array]]:
        moved = attack(
            lambda x: ascended(state.params, x, batch), batch.inputs, batch.key
        )

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Weighed]]:
            losses_B = losses_of(params, moved, batch)
            weighed = weigh(jax.lax.stop_gradient(losses_B), state)
            values_B = losses_B
            if respond is not None:
                values_B += respond(
                    lambda x: ascended(params, x, batch),
                    lambda x: losses_of(params, x, batch),
                    batch.inputs,
                    moved,
                )
            return jnp.sum(weighed.weights_B * values_B), (losses_B, weighed)

        grads, (losses_B, weighed) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        weights_B = weighed.weights_B
        squares = jnp.sum(jnp.square(weights_B))
        metrics = {
            "loss": jnp.mean(losses_B),
            "counted": jnp.square(jnp.sum(weights_B)) / squares / losses_B.size,
        }
        return AdversarialState(
            state.step + 1, params, opt_state, weighed.log_mean
        ), metrics

    return step
