"""A step that forgets some examples and keeps others.

    descend  mean_i forget_i + a mean_j retain_j

The losses are functions that are passed: FLAT, NPO or gradient ascent of
`lostjax.losses`, or the cross entropy of random labels (`relabel`). Which weights move
is decided by the optimiser: with `optim.mask_updates` of a saliency mask at the end of
its chain the step is SalUn's (Fan et al., "SalUn: Empowering Machine Unlearning via
Gradient-based Weight Saliency in Both Image Classification and Generation", 2023,
arXiv:2310.12508).

Their softer variant, here `soft_threshold`, lets each step decide anew which weights
stay. With d = w - w_0 and t the k-th smallest |d| of all weights,

    w <- w_0 + sign(d) max(|d| - t, 0)              k = round(s n), s falls to 0

It is the proximal step of the L1 norm of d. Their code takes w_0 anew each epoch, which
we take for a slip: w_0 is the model before.

Cost: two gradients' worth of examples; the threshold sorts all weights in every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.checks import require_not_negative
from lostjax.typing import Array, PyTree, Scalar


class ForgetBatch(NamedTuple):
    """Examples of one step, any trees."""

    forget: Any
    """What is to be forgotten."""
    retain: Any = None
    """What is to be kept; None if nothing is."""


class UnlearningState(NamedTuple):
    """State of unlearning."""

    step: jax.Array
    """Number of steps done, int32."""
    params: PyTree
    opt_state: PyTree
    start: PyTree = None
    """The parameters before, for `Settle`; None without."""


ExampleLosses = Callable[[PyTree, Any], Array]
"""From parameters and examples to a loss of each, (B,)."""

Settle = Callable[[PyTree, PyTree, jax.Array], PyTree]
"""From parameters after an update, those before unlearning, and the number of earlier
steps, to the parameters that the step returns."""


def init_unlearning(
    params: PyTree, tx: optax.GradientTransformation, *, start: PyTree = None
) -> UnlearningState:
    """Start unlearning.

    Args:
      params: the trained parameters.
      tx: trains them; may mask updates.
      start: the parameters before, if the step settles: a second tree in memory, which
        may be `params` itself unless the step donates its state.
    """
    return UnlearningState(jnp.int32(0), params, tx.init(params), start)


def make_forget_step(
    forget_losses: ExampleLosses,
    tx: optax.GradientTransformation,
    *,
    retain_losses: ExampleLosses | None = None,
    retain_weight: Scalar = 1.0,
    settle: Settle | None = None,
) -> Callable[
    [UnlearningState, ForgetBatch], tuple[UnlearningState, dict[str, jax.Array]]
]:
    """Build a step that forgets.

    Args:
      forget_losses: descended on what is to be forgotten; a loss that *rises* with what
        the model knows, such as minus the cross entropy.
      tx: trains the parameters.
      retain_losses: descended on what is to be kept; None if nothing is.
      retain_weight: a, not negative. May be traced.
      settle: changes the parameters after each update; needs a state with a start.

    Returns:
      A pure step from the state and a batch. Metrics, scalars: "forget" and, if there
      are any, "retain": mean losses before the update.

    Raises:
      ValueError: the weight is negative; at its first call, the state has no start.

    Example:
      step = make_forget_step(
          lambda params, batch: losses.flat_loss(template(params), answer(params)),
          optax.chain(optax.adamw(1e-4), optim.mask_updates(mask)),
      )
    """
    require_not_negative("retain_weight", retain_weight)

    def objective(
        params: PyTree, batch: ForgetBatch
    ) -> tuple[Array, dict[str, jax.Array]]:
        metrics = {"forget": jnp.mean(forget_losses(params, batch.forget))}
        whole = metrics["forget"]
        if retain_losses is not None:
            metrics["retain"] = jnp.mean(retain_losses(params, batch.retain))
            whole = whole + retain_weight * metrics["retain"]
        return whole, metrics

    def step(
        state: UnlearningState, batch: ForgetBatch
    ) -> tuple[UnlearningState, dict[str, jax.Array]]:
        grads, metrics = jax.grad(objective, has_aux=True)(state.params, batch)
        return advance(state, grads, tx=tx, settle=settle), metrics

    return step


def advance(
    state: UnlearningState,
    grads: PyTree,
    *,
    tx: optax.GradientTransformation,
    settle: Settle | None = None,
) -> UnlearningState:
    """Apply one update of an optimiser to a state, and settle the parameters."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if settle is not None:
        if state.start is None:
            raise ValueError("state: has no start; init_unlearning(start=) keeps it")
        params = settle(params, state.start, state.step)
    return UnlearningState(state.step + 1, params, opt_state, state.start)


def soft_threshold(params: PyTree, start: PyTree, *, share: Scalar) -> PyTree:
    """Return the weights that changed least to their start, and the others a part back.

    Args:
      params: a tree of float arrays.
      start: what they were, of the same structure and shapes.
      share: s, in [0, 1], of all weights together that return, bit for bit; equal
        changes return together. May be traced.

    Returns:
      The parameters; each is at most as far from its start as before.

    Raises:
      ValueError: a known share lies outside [0, 1].

    Example:
      settle = lambda params, start, step: soft_threshold(
          params, start, share=0.5 * jnp.maximum(0, 1 - step / 100)
      )
    """
    if not isinstance(share, jax.core.Tracer) and not 0 <= share <= 1:
        raise ValueError(f"share={share}: must lie in [0, 1]")
    changes = jax.tree.map(lambda w, w0: _wide(w) - _wide(w0), params, start)
    sizes_N = jnp.sort(
        jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(changes)])
    )
    # Rounding first, and no threshold for none: the smallest change would return.
    count = jnp.round(share * sizes_N.size).astype(jnp.int32)
    threshold = jnp.where(count > 0, sizes_N[jnp.maximum(count, 1) - 1], 0.0)

    def shrink(w: Array, w0: Array, change: Array) -> Array:
        nearer = _wide(w) - jnp.sign(change) * threshold
        # Select the start itself: w0 + 0 is w0, but w - (w - w0) may not be.
        return jnp.where(jnp.abs(change) <= threshold, w0, nearer.astype(w.dtype))

    settled: PyTree = jax.tree.map(shrink, params, start, changes)
    return settled


def _wide(weights: Array) -> Array:
    return weights.astype(jnp.float32)
