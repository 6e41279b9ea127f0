"""Ascents: of parameters along a gradient, and of inputs within a ball around them.

    w + r g / |g|                                   parameters, one step of length r
    d <- project(d + s steepest(grad l(x + d)))     inputs, projected gradient ascent
    max_d l(x + d) + c sum_k log(u_k - d_k) + log(d_k - o_k)     inputs, log barrier

The first is the inner step of sharpness-aware minimisation (Foret et al.,
"Sharpness-Aware Minimization for Efficiently Improving Generalization", 2020,
arXiv:2010.01412, equation 2); its norm is taken over all parameters together. The
second is the attack of Madry et al., "Towards Deep Learning Models Resistant to
Adversarial Attacks", 2017, arXiv:1706.06083. The third keeps inside the box
o = max(-r, low - x), u = min(r, high - x), so that its optimum is a smooth function of
the parameters: Sow et al., "Doubly Robust Instance-Reweighted Adversarial Training",
2023, arXiv:2308.00311, ascend it by gradient steps with a projection. Here each step
solves the barrier exactly for the linearised l and goes a part of the way there, as
Frank and Wolfe do (1956): there is no step size, and every point is inside.

    t = g b^2 / (c + sqrt(c^2 + g^2 b^2))         from the middle; b = (u - o) / 2

Cost: a forward and a backward pass a step and restart.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.checks import require_positive
from lostjax.typing import Array, Float, Key, PyTree, Scalar

ValueOf = Callable[[Array], Array]
"""From inputs (B, ...) to what is ascended, (B,); each of its own input alone."""


def ascend(params: PyTree, gradients: PyTree, *, radius: float) -> PyTree:
    """Move parameters a distance r along the gradient: w + r g / |g|.

    Args:
      params: any tree of float arrays.
      gradients: tree of the same structure and shapes; if all are 0, nothing moves.
      radius: length of the step r, measured over all parameters together.

    Returns:
      The moved parameters, with the shapes and types of `params`.
    """
    squares = optax.tree.norm(gradients, squared=True)
    # The inner `where` keeps 0 from the root and the quotient: their slopes there are
    # infinite, and 0 times them is NaN.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    scale = jnp.where(squares > 0, radius / norm, 0.0)
    return move(params, gradients, scale=scale)


def move(params: PyTree, direction: PyTree, *, scale: jax.Array) -> PyTree:
    """Add scale * direction to parameters, which keep their types.

    Args:
      params: any tree of float arrays.
      direction: tree of the same structure and shapes.
      scale: scalar factor of the direction.

    Returns:
      The moved parameters, with the shapes and types of `params`.
    """
    moved: PyTree = jax.tree.map(
        # Cast back: a float32 scale would widen bfloat16 parameters.
        lambda w, d: (w + scale * d).astype(w.dtype),
        params,
        direction,
    )
    return moved


class Ball(NamedTuple):
    """What an input may be moved by: all three map (B, ...) to (B, ...)."""

    draw: Callable[[Key, Array], Array]
    """Draws a start for inputs."""
    steepest: Callable[[Array], Array]
    """From a gradient to the direction of steepest ascent, of norm 1; 0 for 0."""
    project: Callable[[Array], Array]
    """From a displacement to the nearest in the ball."""


def max_ball(radius: Scalar) -> Ball:
    """Build the ball of displacements no entry of which exceeds the radius (l_inf).

    Args:
      radius: not negative; may be traced.
    """
    return Ball(
        lambda key, x: jax.random.uniform(key, x.shape, x.dtype, -1, 1) * radius,
        jnp.sign,
        lambda d: jnp.clip(d, -radius, radius),
    )


def euclidean_ball(radius: Scalar) -> Ball:
    """Build the ball of displacements of at most this length (l_2), each example's own.

    Args:
      radius: not negative; may be traced.
    """

    def draw(key: Key, x: Array) -> Array:
        direction, share = jax.random.split(key)
        unit = _unit(jax.random.normal(direction, x.shape, x.dtype))
        shares_B = jax.random.uniform(share, x.shape[:1], x.dtype)
        # Uniform in the ball: the share of its volume within s is s^dimensions.
        return unit * radius * _column(shares_B ** (1 / x[0].size), x)

    def project(d: Array) -> Array:
        norms_B = _norms(d)
        shrink_B = jnp.where(norms_B > radius, radius / jnp.maximum(norms_B, 1e-30), 1)
        return d * _column(shrink_B, d)

    return Ball(draw, _unit, project)


def projected_ascent(
    value_of: ValueOf,
    inputs: Float[Array, "B ..."],
    *,
    ball: Ball,
    step_size: Scalar,
    n_steps: int,
    key: Key,
    restarts: int = 1,
    pick_of: ValueOf | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "B ..."]:
    """Ascend each example's value within a ball around its input (PGD).

    Args:
      value_of: what is ascended.
      inputs: (B, ...), in [low, high].
      ball: `max_ball(radius)` or `euclidean_ball(radius)`.
      step_size: length of a step, in the ball's norm; may be traced.
      n_steps: at least 1.
      key: decides the starts.
      restarts: how often to start, at least 1.
      pick_of: the best restart of each example has most of it; default: `value_of`. The
        margin by which the answer is wrong makes an example count as broken if any
        restart breaks it.
      low: least value of an input.
      high: largest.

    Returns:
      Inputs (B, ...) in the ball and in [low, high]; no gradient flows through them.
      The last of each ascent counts, so that more steps need not be worse.

    Raises:
      ValueError: n_steps or restarts is below 1.
    """
    for name, count in (("n_steps", n_steps), ("restarts", restarts)):
        require_positive(name, count)
    inputs = jax.lax.stop_gradient(inputs)
    gradient = jax.grad(lambda x: jnp.sum(value_of(x)))
    pick = value_of if pick_of is None else pick_of

    def inside(d: Array) -> Array:
        return jnp.clip(inputs + ball.project(d), low, high) - inputs

    def step(d: Array, _: None) -> tuple[Array, None]:
        direction = ball.steepest(gradient(inputs + d))
        return inside(d + step_size * direction), None

    def restart(best: tuple[Array, Array], key: Key) -> tuple[PyTree, None]:
        start = inside(ball.draw(key, inputs))
        moved, _ = jax.lax.scan(step, start, None, length=n_steps)
        values_B = pick(inputs + moved)
        # Not `>`: a value that is NaN must stay visible.
        better_B = ~(values_B <= best[1])
        d = jnp.where(_column(better_B, inputs), moved, best[0])
        return (d, jnp.where(better_B, values_B, best[1])), None

    none = jnp.zeros_like(inputs), jnp.full(inputs.shape[:1], -jnp.inf)
    (d, _), _ = jax.lax.scan(restart, none, jax.random.split(key, restarts))
    return jax.lax.stop_gradient(jnp.clip(inputs + d, low, high))


class Barrier(NamedTuple):
    """A box around each input, and the weight of its log barrier."""

    radius: Scalar
    """r > 0, of the l_inf ball that bounds the box."""
    weight: Scalar
    """c > 0, in the unit of the value that is ascended: an entry of gradient g ends
    about c / g from its bound."""
    low: float = 0.0
    high: float = 1.0

    def middle(self, inputs: Array) -> tuple[Array, Array]:
        """Return the middle of the box of displacements, and half of its width."""
        least = jnp.maximum(-self.radius, self.low - inputs)
        most = jnp.minimum(self.radius, self.high - inputs)
        return (least + most) / 2, (most - least) / 2

    def curvature(self, inputs: Array, moved: Array) -> Array:
        """Return c ((u - d)^-2 + (d - o)^-2), minus the barrier's second derivative."""
        middle, half = self.middle(inputs)
        t = moved - inputs - middle
        return self.weight * ((half - t) ** -2 + (half + t) ** -2)


def barrier_ascent(
    value_of: ValueOf, inputs: Float[Array, "B ..."], *, barrier: Barrier, n_steps: int
) -> Float[Array, "B ..."]:
    """Ascend each example's value plus a log barrier of the box around its input.

    Args:
      value_of: what is ascended.
      inputs: (B, ...), in [low, high] of the barrier.
      barrier: the box and its weight; may be traced.
      n_steps: at least 1; one is exact if the value is linear.

    Returns:
      Inputs (B, ...) strictly inside the box; no gradient flows through them. Step i
      goes 2 / (i + 2) of the way, so that the first goes all of it.

    Raises:
      ValueError: n_steps is below 1, or a known radius or weight is not positive.
    """
    require_positive("n_steps", n_steps)
    require_positive("barrier.radius", barrier.radius)
    require_positive("barrier.weight", barrier.weight)
    inputs = jax.lax.stop_gradient(inputs)
    gradient = jax.grad(lambda x: jnp.sum(value_of(x)))
    middle, half = barrier.middle(inputs)

    def step(d: Array, number: Array) -> tuple[Array, None]:
        g, c = gradient(inputs + d), barrier.weight
        # Of the two roots the one inside, in the form that does not cancel at g = 0.
        t = g * half**2 / (c + jnp.sqrt(c**2 + (g * half) ** 2))
        return d + 2 / (number + 2) * (middle + t - d), None

    start = jnp.broadcast_to(middle, inputs.shape)
    d, _ = jax.lax.scan(step, start, jnp.arange(n_steps, dtype=inputs.dtype))
    return jax.lax.stop_gradient(inputs + d)


def _norms(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))


def _unit(x: Array) -> Array:
    return x / _column(jnp.maximum(_norms(x), 1e-30), x)


def _column(values_B: Array, like: Array) -> Array:
    """Reshape (B,) to (B, 1, ..., 1)."""
    return values_B.reshape(-1, *[1] * (like.ndim - 1))
