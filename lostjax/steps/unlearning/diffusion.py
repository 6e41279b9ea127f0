"""A step that makes a conditional diffusion model forget what labels mean.

    x_t  = sqrt(s_t) x + sqrt(1 - s_t) e             t uniform, e normal
    loss = |p(x_t, t, c) - stop(p(x_t, t, c'))|^2    of what is forgotten
         + a |p(x_t, t, c) - e|^2                    of what is retained

p predicts the noise e; c is the label of an example, and c' another one: asked for what
is forgotten, the model draws something else. Means are over examples and entries. Fan
et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both
Image Classification and Generation", 2023, arXiv:2310.12508, with the noise of Ho, Jain
& Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239. The
authors' code masks gradients here, so that momentum moves masked weights; end the
optimiser's chain with `optim.mask_updates` instead. It has a = 1e-3.

Cost: three passes forward and two backward, over a batch each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.checks import require_not_negative
from lostjax.steps.unlearning.forget import Settle, UnlearningState, advance
from lostjax.typing import Array, Float, Key, PyTree, Scalar


class DiffusionBatch(NamedTuple):
    """Inputs and labels of one step."""

    forget_inputs: Any
    """(B, ...), scaled as while training."""
    forget_labels: Any
    """Any tree that the model takes."""
    other_labels: Any
    """What is asked for instead, such as `other_labels` of the labels."""
    retain_inputs: Any
    retain_labels: Any
    key: Key
    """Decides times and noise."""


PredictNoise = Callable[[PyTree, Array, Array, Any], Array]
"""From parameters, x_t (B, ...), t (B,) int32 from 0 and labels to noise (B, ...)."""


def make_diffusion_forget_step(
    predict_noise: PredictNoise,
    tx: optax.GradientTransformation,
    *,
    signal_N: Float[Array, "N"],
    retain_weight: Scalar,
    settle: Settle | None = None,
) -> Callable[
    [UnlearningState, DiffusionBatch], tuple[UnlearningState, dict[str, jax.Array]]
]:
    """Build a step that forgets labels of a diffusion model.

    Args:
      predict_noise: the model.
      tx: trains the parameters.
      signal_N: s_t, the share of x in the variance of x_t after t steps, in [0, 1]
        (the product of 1 - beta).
      retain_weight: a, not negative. May be traced.
      settle: see `make_forget_step`.

    Returns:
      A pure step from the state and a batch. Metrics, scalars: "forget" and "retain",
      mean squared errors before the update.

    Raises:
      ValueError: the weight is negative, or the shares lie outside [0, 1].
    """
    require_not_negative("retain_weight", retain_weight)
    if not jnp.all((signal_N >= 0) & (signal_N <= 1)):
        raise ValueError("signal_N: must lie in [0, 1]")

    def objective(
        params: PyTree, batch: DiffusionBatch
    ) -> tuple[Array, dict[str, jax.Array]]:
        keys = jax.random.split(batch.key)
        x, t_B, _ = _add_noise(batch.forget_inputs, signal_N, key=keys[0])
        # The target is the model's own answer, which must not move towards the label.
        wanted = jax.lax.stop_gradient(
            predict_noise(params, x, t_B, batch.other_labels)
        )
        given = predict_noise(params, x, t_B, batch.forget_labels)
        x, t_B, noise = _add_noise(batch.retain_inputs, signal_N, key=keys[1])
        kept = predict_noise(params, x, t_B, batch.retain_labels)
        metrics = {
            "forget": jnp.mean(jnp.square(given - wanted)),
            "retain": jnp.mean(jnp.square(kept - noise)),
        }
        return metrics["forget"] + retain_weight * metrics["retain"], metrics

    def step(
        state: UnlearningState, batch: DiffusionBatch
    ) -> tuple[UnlearningState, dict[str, jax.Array]]:
        grads, metrics = jax.grad(objective, has_aux=True)(state.params, batch)
        return advance(state, grads, tx=tx, settle=settle), metrics

    return step


def _add_noise(
    inputs: Array, signal_N: Array, *, key: Key
) -> tuple[Array, Array, Array]:
    """Draw times and noise; return noisy inputs, times and the noise."""
    at, drawn = jax.random.split(key)
    t_B = jax.random.randint(at, inputs.shape[:1], 0, signal_N.size, jnp.int32)
    noise = jax.random.normal(drawn, inputs.shape, inputs.dtype)
    share_B = signal_N[t_B].reshape(-1, *[1] * (inputs.ndim - 1))
    return jnp.sqrt(share_B) * inputs + jnp.sqrt(1 - share_B) * noise, t_B, noise
