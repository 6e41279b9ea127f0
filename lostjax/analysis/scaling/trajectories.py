"""The whole loss curve of a model, from the constants of a step law.

    L = (N_c / N)^alpha_N + (S_c (1 + B_crit(L) / B) / S)^alpha_S

The left side rises with L and the right side falls, because B_crit falls as L rises:
there is one root. It lies between the converged loss and the loss at which the critical
batch is forgotten, and is found by bisection of log(L - converged loss). Its gradient
is that of the implicit function, so that it is exact and costs one evaluation, and
constants can be fitted through it. The forms are those of `step_law`.

JAX, in the type of the arguments: powers are taken through logarithms, so that float32
holds 10^12 parameters, and float64 under `jax.enable_x64` has 15 digits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis.scaling.step_law import PowerLaw, StepLaw
from lostjax.typing import Array, Float

Map = Callable[[jax.Array], jax.Array]
Ends = tuple[jax.Array, jax.Array]

_HALVINGS = 64


def loss_trajectory(
    law: StepLaw,
    *,
    n_params: Float[Array, "..."] | np.ndarray | float | int,
    steps: Float[Array, "..."] | np.ndarray | float | int,
    batch: Float[Array, "..."] | np.ndarray | float | int,
) -> Float[Array, "..."]:
    """Compute the loss after some steps at a batch; differentiable in everything.

    Args:
      law: constants; floats or arrays, with positive exponents.
      n_params: parameters without embeddings, positive.
      steps: steps S, positive, of a shape that fits.
      batch: tokens a step B, positive, of a shape that fits.

    Returns:
      The loss, nats, of the common shape.

    Example:
      jax.vmap(lambda s: loss_trajectory(law, n_params=1e6, steps=s, batch=4e3))(steps)
    """
    sizes, taken, tokens = jnp.broadcast_arrays(
        *(jnp.asarray(x, jnp.result_type(float)) for x in (n_params, steps, batch))
    )
    converged = jnp.exp(_log_power(law.size, jnp.log(sizes)))

    def rise(log_above: jax.Array) -> jax.Array:
        """Log of the left side's excess over that of the right side's; rises."""
        loss = converged + jnp.exp(log_above)
        needed = _log_power(law.batch, jnp.log(loss))
        more = jnp.logaddexp(0.0, needed - jnp.log(tokens))
        return log_above - _log_power(law.step, jnp.log(taken) - more)

    # Without the critical batch the loss is lowest, with that of the lowest highest.
    low = _log_power(law.step, jnp.log(taken))
    return jnp.asarray(converged + jnp.exp(_solve(rise, low)))


def _solve(rise: Map, low: jax.Array) -> jax.Array:
    """Find the root of a rising function above `low`, elementwise."""

    def bisect(function: Map, start: jax.Array) -> jax.Array:
        # At `start` the function is not positive; minus it is how far the root can be.
        high = start - function(start)

        def halve(_: int, ends: Ends) -> Ends:
            left, right = ends
            middle = left + (right - left) / 2
            below = function(middle) < 0
            return jnp.where(below, middle, left), jnp.where(below, right, middle)

        left, right = jax.lax.fori_loop(0, _HALVINGS, halve, (start, high))
        return jnp.asarray(left + (right - left) / 2)

    def divide(linear: Map, value: jax.Array) -> jax.Array:
        return value / linear(jnp.ones_like(value))

    start = jax.lax.stop_gradient(low)
    root: jax.Array = jax.lax.custom_root(rise, start, bisect, divide)
    return root


def _log_power(law: PowerLaw, log_x: jax.Array) -> jax.Array:
    """Compute log of (scale / x)^exponent."""
    # A small exponent has a scale that float32 cannot hold, although it can its log.
    known = isinstance(law.scale, float | int)
    log_scale = np.log(law.scale) if known else jnp.log(law.scale)
    return jnp.asarray(law.exponent * (log_scale - log_x))
