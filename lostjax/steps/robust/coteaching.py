"""Co-teaching: two networks, each trained on the small-loss examples of the other.

    S_b = the k examples of smallest loss for network a        in its batch
    S_a = the k examples of smallest loss for network b        in its batch
    network a descends the mean loss of S_a, network b that of S_b

A network fits wrong labels late, so that they have large losses; but the examples that
a network picks for itself confirm its own mistakes. Han et al., "Co-teaching: Robust
Training of Deep Neural Networks with Extremely Noisy Labels", 2018, arXiv:1804.06872,
show both networks the same batch. Chen et al., "Compressing Features for Learning with
Noisy Labels", 2022, arXiv:2206.13140, start from two trained networks, pick by the loss
without dropout, and show each network half of a batch. All of it is in what is passed:
two batches, alike or not, and a loss to pick by.

The two networks are one tree whose leaves have a first axis of 2, as have batches. With
a share of 1 they are trained apart, by two plain steps.

Cost: one more forward pass than two plain steps, and two states.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.losses import small_loss_mask, weighted_mean
from lostjax.typing import Array, PyTree, Scalar

LossesOf = Callable[[PyTree, Any], Array]
"""From one network's parameters and a batch, any tree, to a loss an example, (B,). A
key for dropout belongs to the batch."""


class CoteachingState(NamedTuple):
    """Two networks and their optimisers: leaves (2, ...)."""

    step: jax.Array
    """Number of steps done, int32."""
    params: PyTree
    opt_state: PyTree


def init_coteaching(
    params: PyTree, tx: optax.GradientTransformation
) -> CoteachingState:
    """Start co-teaching from the parameters of two networks.

    Args:
      params: leaves (2, ...), as `jax.vmap(init)(jax.random.split(key, 2))` makes them.
      tx: trains each of them.

    Returns:
      The state before the first step.

    Raises:
      ValueError: a leaf has no first axis of 2.
    """
    shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if shapes != {(2,)}:
        raise ValueError(f"params: first axes {sorted(shapes)}, must all be 2")
    return CoteachingState(jnp.int32(0), params, jax.vmap(tx.init)(params))


def make_coteaching_step(
    losses_of: LossesOf,
    tx: optax.GradientTransformation,
    *,
    keep: Scalar | Callable[[jax.Array], Scalar],
    score_of: LossesOf | None = None,
) -> Callable[[CoteachingState, PyTree], tuple[CoteachingState, dict[str, jax.Array]]]:
    """Build a step of co-teaching.

    Args:
      losses_of: the losses that are descended.
      tx: trains each network.
      keep: share of a batch that is kept, in (0, 1], rounded to examples and at least
        one; or a schedule of it, as `optax.linear_schedule(1, 1 - noise, n_steps)`.
      score_of: the losses to pick by, without dropout; default: those descended.

    Returns:
      A pure step from the state and a batch, leaves (2, B, ...), the first for network
      a: network a picks from it what network b is trained on, and the reverse. Metrics,
      each of shape (2,): "loss", each network's mean over its kept examples, before the
      step; "picked", the mean score of what it picked.

    Raises:
      ValueError: keep is a number outside its range; while traced, a batch without a
        first axis of 2.

    Example:
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
        state, metrics = step(state, both)
    """
    known = not callable(keep) and not isinstance(keep, jax.core.Tracer)
    if known and not 0 < keep <= 1:  # type: ignore[operator]
        raise ValueError(f"keep={keep}: must lie in (0, 1]")
    score = losses_of if score_of is None else score_of

    def loss(params: PyTree, batch: PyTree, mask_B: jax.Array) -> jax.Array:
        return weighted_mean(losses_of(params, batch), mask_B.astype(jnp.float32))

    def step(
        state: CoteachingState, batch: PyTree
    ) -> tuple[CoteachingState, dict[str, jax.Array]]:
        if {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)} != {(2,)}:
            raise ValueError("batch: every leaf must have a first axis of 2")
        scores_2B = jax.vmap(score)(state.params, batch)
        share = keep(state.step) if callable(keep) else keep
        k = jnp.round(share * scores_2B.shape[1]).astype(jnp.int32)
        k = jnp.maximum(k, 1)
        masks_2B = jax.vmap(lambda scores_B: small_loss_mask(scores_B, k=k))(scores_2B)
        # Exchange: each network gets the other's batch, and the other's choice of it.
        taught, masks_for_2B = jax.tree.map(lambda leaf: leaf[::-1], (batch, masks_2B))
        values_2, grads = jax.vmap(jax.value_and_grad(loss))(
            state.params, taught, masks_for_2B
        )
        updates, opt_state = jax.vmap(tx.update)(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        picked_2 = jax.vmap(weighted_mean)(scores_2B, masks_2B.astype(jnp.float32))
        metrics = {"loss": values_2, "picked": picked_2}
        return CoteachingState(state.step + 1, params, opt_state), metrics

    return step
