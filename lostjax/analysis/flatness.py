"""How flat a loss is around its parameters: how far it rises within a radius r.

    ascent rise = loss(w + r g / |g|) - loss(w)               g = grad loss(w)
    random rise = mean_u (loss(w + r u) + loss(w - r u)) / 2 - loss(w)

with norms over all parameters together, and u uniform on the unit sphere. The first is
one step of the inner maximum that sharpness-aware minimisation lowers (Foret et al.,
2020, arXiv:2010.01412, section 2); where the loss is flat enough to be a quadratic with
Hessian H they are

    r |g| + r^2 g'Hg / (2 |g|^2)        and        r^2 trace(H) / (2 n)

for n parameters. Opposite directions come in pairs, so that the slope, which has mean 0
and would be most of the noise, cancels.

Both depend on how the parameters are scaled: a model that answers the same with larger
weights rises less. They compare models of one shape, trained alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lostjax.steps.ascent import ascend, move
from lostjax.typing import Array, Float, PyTree

Loss = Callable[[PyTree], jax.Array]
"""From parameters to a scalar."""


def ascent_rise(loss: Loss, params: PyTree, *, radius: float) -> Float[Array, ""]:
    """Compute how far the loss rises in one step of a norm up its gradient.

    Args:
      loss: from parameters to a scalar; pure.
      params: where; a tree of arrays of a float type.
      radius: positive.

    Returns:
      The rise, of the loss's type and unit; below 0 where the step overshoots a ridge.

    Raises:
      ValueError: where the radius is not positive.
    """
    _require_positive(radius)
    value, gradients = jax.value_and_grad(loss)(params)
    rise: jax.Array = loss(ascend(params, gradients, radius=radius)) - value
    return rise


def random_rise(
    loss: Loss, params: PyTree, *, radius: float, key: jax.Array, n_directions: int = 8
) -> Float[Array, ""]:
    """Compute how far the loss rises, in the mean, at a distance in any direction.

    Args:
      loss: from parameters to a scalar; pure.
      params: where; a tree of arrays of a float type.
      radius: positive.
      key: decides the directions.
      n_directions: at least 1; each is gone both ways, so that the loss is computed
        2 n + 1 times, one after the other.

    Returns:
      The mean rise, of the loss's type and unit.

    Raises:
      ValueError: where the radius is not positive, or there are no directions.
    """
    _require_positive(radius)
    if n_directions < 1:
        raise ValueError(f"n_directions={n_directions}: must be at least 1")

    def at(place: tuple[jax.Array, jax.Array]) -> jax.Array:
        key, side = place
        direction = optax.tree.random_like(key, params)
        scale = side * radius / optax.tree.norm(direction)
        return loss(move(params, direction, scale=scale))

    # Here, and both ways in each direction: one loop, so that the loss compiles once.
    keys = jnp.repeat(jax.random.split(key, n_directions), 2)
    sides = jnp.tile(jnp.array([1.0, -1.0]), n_directions)
    places = (jnp.concatenate([keys[:1], keys]), jnp.append(0.0, sides))
    values = jax.lax.map(at, places)
    rise: jax.Array = jnp.mean(values[1:]) - values[0]
    return rise


def _require_positive(radius: float) -> None:
    if not radius > 0:
        raise ValueError(f"radius={radius}: must be positive")
