"""Flatness of a loss around its parameters: its rise within a radius r.

    ascent rise = loss(w + r g / |g|) - loss(w)               g = grad loss(w)
    random rise = mean_u (loss(w + r u) + loss(w - r u)) / 2 - loss(w)

Norms are over all parameters together, and u is uniform on the unit sphere. The ascent
rise is one step of the inner maximisation of sharpness-aware minimisation (Foret et
al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2020,
arXiv:2010.01412, section 2). If the loss is locally quadratic with Hessian H and n
parameters, the two rises are

    r |g| + r^2 g'Hg / (2 |g|^2)        and        r^2 trace(H) / (2 n)

Random directions come in opposite pairs, so that the slope cancels. Its mean is 0, but
it would dominate the noise.

Both rises depend on the scale of the parameters: an equivalent model with larger
weights rises less. Use them to compare models of the same shape that were trained
alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lostjax.steps.robust.ascent import ascend, move
from lostjax.typing import Array, Float, PyTree

Loss = Callable[[PyTree], jax.Array]
"""A function from parameters to a scalar."""


def ascent_rise(loss: Loss, params: PyTree, *, radius: float) -> Float[Array, ""]:
    """Compute the rise of the loss after one step of length r up its gradient.

    Args:
      loss: pure function from parameters to a scalar.
      params: point of evaluation; a tree of float arrays.
      radius: length of the step, positive.

    Returns:
      The rise, in the type and unit of the loss; negative if the step overshoots a
      ridge.

    Raises:
      ValueError: if the radius is not positive.
    """
    _require_positive(radius)
    value, gradients = jax.value_and_grad(loss)(params)
    rise: jax.Array = loss(ascend(params, gradients, radius=radius)) - value
    return rise


def random_rise(
    loss: Loss, params: PyTree, *, radius: float, key: jax.Array, n_directions: int = 8
) -> Float[Array, ""]:
    """Compute the mean rise of the loss at distance r in random directions.

    Args:
      loss: pure function from parameters to a scalar.
      params: point of evaluation; a tree of float arrays.
      radius: distance, positive.
      key: random key for the directions.
      n_directions: number of directions n, at least 1. Each is used with both signs, so
        the loss is evaluated 2 n + 1 times, sequentially.

    Returns:
      The mean rise, in the type and unit of the loss.

    Raises:
      ValueError: if the radius is not positive or `n_directions` is below 1.
    """
    _require_positive(radius)
    if n_directions < 1:
        raise ValueError(f"n_directions={n_directions}: must be at least 1")

    def at(place: tuple[jax.Array, jax.Array]) -> jax.Array:
        key, side = place
        # A normalised Gaussian vector is uniform on the sphere.
        direction = optax.tree.random_like(key, params)
        scale = side * radius / optax.tree.norm(direction)
        return loss(move(params, direction, scale=scale))

    # Offset 0 joins the loop of all directions, so that the loss is compiled once.
    keys = jnp.repeat(jax.random.split(key, n_directions), 2)
    sides = jnp.tile(jnp.array([1.0, -1.0]), n_directions)
    places = (jnp.concatenate([keys[:1], keys]), jnp.append(0.0, sides))
    # map, not vmap: one copy of the parameters at a time.
    values = jax.lax.map(at, places)
    rise: jax.Array = jnp.mean(values[1:]) - values[0]
    return rise


def _require_positive(radius: float) -> None:
    if not radius > 0:
        raise ValueError(f"radius={radius}: must be positive")
