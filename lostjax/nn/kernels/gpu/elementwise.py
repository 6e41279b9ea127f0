"""Derivatives of elementwise functions in operations that GPU kernels support.

Differentiation adds several contributions to one value with a primitive of its own,
`add_any`. Mosaic GPU (as of jax 0.10) has no rule for it; this module replaces it by an
addition.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from lostjax.typing import Activation


def pull_through(
    activation: Activation, x: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Multiply a gradient by the activation's derivative at x.

    Args:
        activation: an elementwise function.
        x: its argument, of any shape.
        gradient: gradient of its result, same shape.

    Returns:
        The gradient of x.
    """

    def push(x: jax.Array, tangent: jax.Array) -> jax.Array:
        pushed: jax.Array = jax.jvp(activation, (x,), (tangent,))[1]
        return pushed  # the Jacobian is diagonal: JVP and VJP are equal

    (pulled,) = _evaluate(jax.make_jaxpr(push)(x, gradient), (x, gradient))
    return pulled


def _evaluate(
    program: core.ClosedJaxpr, arguments: Sequence[jax.Array]
) -> list[jax.Array]:
    jaxpr = program.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr")
        # Kernels have no rule for `add_any`: use a plain addition.
        if equation.primitive.name == "add_any":
            outputs = [jnp.add(*inputs)]
            # Inline nested functions such as jit, because they may contain `add_any`.
        elif isinstance(inner, core.ClosedJaxpr):
            outputs = _evaluate(inner, inputs)
        else:
            parameters = equation.primitive.get_bind_params(equation.params)
            result = equation.primitive.bind(*inputs, **parameters)
            several = equation.primitive.multiple_results
            outputs = list(result) if several else [result]
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
