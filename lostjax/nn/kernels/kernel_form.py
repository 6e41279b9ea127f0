"""A product by a kernel where the program's platform has it, else as it is meant.

What the compilers' files share: one `custom_vjp` around a forward and a backward
kernel, beside what both mean in jnp. x A (and what else a kernel wants) is kept for the
backward pass under the names that policies of `jax.checkpoint` know.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
from jax.ad_checkpoint import checkpoint_name

from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.typing import Activation, Array, Float

Choose = Callable[..., Any]
"""`choose(kernel, meaning, *args)` applies one of two functions to the arguments."""

Gradients = tuple[jax.Array, BottleneckWeights]
"""Of the rows, and of the weights."""


@runtime_checkable
class KernelForm(Protocol):
    """Kernels for one product; hashable, and equal where they do the same."""

    @property
    def activation(self) -> Activation | None:
        """What stands between the factors; None for nothing."""

    @property
    def choose(self) -> Choose:
        """Decides between a kernel and its meaning."""

    @property
    def has_backward(self) -> bool:
        """Whether there is a kernel for the backward pass."""

    def forward(
        self, x_PM: jax.Array, weights: BottleneckWeights, *, keep_hidden: bool
    ) -> tuple[jax.Array, ...]:
        """Give y and, where they are kept, the hidden values, by a kernel."""

    def hidden(self, x_PM: jax.Array, weights: BottleneckWeights) -> jax.Array:
        """Give the hidden values without one; no program uses them."""

    def backward(
        self,
        x_PM: jax.Array,
        hidden: jax.Array,
        g_PN: jax.Array,
        weights: BottleneckWeights,
    ) -> Gradients:
        """Propagate a gradient back by a kernel."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(
    form: KernelForm, x_PM: Float[Array, "P M"], weights: BottleneckWeights
) -> jax.Array:
    """Multiply rows with a narrow matrix.

    Args:
        form: its kernels.
        x_PM: the rows, of the type that is computed in.
        weights: theirs.

    Returns:
        The products (P, N).
    """

    def kernel(x_PM: jax.Array, weights: BottleneckWeights) -> jax.Array:
        return form.forward(x_PM, weights, keep_hidden=False)[0]

    y_PN: jax.Array = form.choose(kernel, partial(_meaning, form), x_PM, weights)
    return y_PN


def _forward(
    form: KernelForm, x_PM: jax.Array, weights: BottleneckWeights
) -> tuple[jax.Array, tuple[Any, ...]]:
    def meaning(
        x_PM: jax.Array, weights: BottleneckWeights
    ) -> tuple[jax.Array, jax.Array]:
        return _meaning(form, x_PM, weights), form.hidden(x_PM, weights)

    kernel = partial(form.forward, keep_hidden=True)
    y_PN, hidden = form.choose(kernel, meaning, x_PM, weights)
    # One kernel makes both: whoever keeps y and not these would have them made again.
    hidden = checkpoint_name(checkpoint_name(hidden, "bottleneck"), "product")
    return checkpoint_name(y_PN, "product"), (x_PM, hidden, weights)


def _backward(
    form: KernelForm, residuals: tuple[Any, ...], g_PN: jax.Array
) -> Gradients:
    x_PM, hidden, weights = residuals

    def meaning(
        x_PM: jax.Array,
        hidden: jax.Array,
        g_PN: jax.Array,
        weights: BottleneckWeights,
    ) -> Gradients:
        del hidden
        return _pull(form, x_PM, g_PN, weights)

    if not form.has_backward:
        return meaning(x_PM, hidden, g_PN, weights)
    gradients: Gradients = form.choose(
        form.backward, meaning, x_PM, hidden, g_PN, weights
    )
    return gradients


multiply.defvjp(_forward, _backward)


def _meaning(
    form: KernelForm, x_PM: jax.Array, weights: BottleneckWeights
) -> jax.Array:
    return bottleneck_products(x_PM, [weights], activation=form.activation)[0]


def _pull(
    form: KernelForm, x_PM: jax.Array, g_PN: jax.Array, weights: BottleneckWeights
) -> Gradients:
    def product(x_PM: jax.Array, learnt: BottleneckWeights) -> jax.Array:
        return _meaning(form, x_PM, learnt._replace(kept_C=weights.kept_C))

    _, pull = jax.vjp(product, x_PM, weights._replace(kept_C=None))
    gradients: Gradients = pull(g_PN)
    return gradients
