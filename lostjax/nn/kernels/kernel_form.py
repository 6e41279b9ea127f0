"""Products by a kernel where the program's platform has it, else as they are meant.

What the compilers' files share: one `custom_vjp` around a forward and a backward
kernel, beside what both mean in jnp. x A (and what else a kernel wants) is kept for the
backward pass under the names that policies of `jax.checkpoint` know.
"""

import functools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
from jax.ad_checkpoint import checkpoint_name

from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.typing import Activation, Array, Float

Choose = Callable[..., Any]
"""`choose(kernel, meaning, *args)` applies one of two functions to the arguments."""

Siblings = tuple[BottleneckWeights, ...]
"""The weights of matrices that one kernel multiplies the same rows with."""

Arrays = tuple[jax.Array, ...]
"""One for each sibling."""

Gradients = tuple[jax.Array, Siblings]
"""Of the rows, and of the weights."""


@runtime_checkable
class KernelForm(Protocol):
    """Kernels for siblings; hashable, and equal where they do the same."""

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
        self, x_PM: jax.Array, siblings: Siblings, *, keep_hidden: bool
    ) -> tuple[Arrays, Arrays]:
        """Give y and the hidden values, none where they are not kept, by a kernel."""

    def hidden(self, x_PM: jax.Array, siblings: Siblings) -> Arrays:
        """Give the hidden values without one; no program uses them."""

    def backward(
        self, x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        """Propagate a gradient back by a kernel."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(form: KernelForm, x_PM: Float[Array, "P M"], siblings: Siblings) -> Arrays:
    """Multiply rows with narrow matrices.

    Args:
        form: their kernels.
        x_PM: the rows, of the type that is computed in.
        siblings: the matrices' weights.

    Returns:
        The products (P, N), one for each.
    """

    def kernel(x_PM: jax.Array, siblings: Siblings) -> Arrays:
        return form.forward(x_PM, siblings, keep_hidden=False)[0]

    products: Arrays = form.choose(kernel, partial(_meaning, form), x_PM, siblings)
    return products


def _forward(
    form: KernelForm, x_PM: jax.Array, siblings: Siblings
) -> tuple[Arrays, tuple[Any, ...]]:
    def meaning(x_PM: jax.Array, siblings: Siblings) -> tuple[Arrays, Arrays]:
        return _meaning(form, x_PM, siblings), form.hidden(x_PM, siblings)

    kernel = partial(form.forward, keep_hidden=True)
    products, hidden = form.choose(kernel, meaning, x_PM, siblings)
    # One kernel makes both: whoever keeps y and not these would have them made again.
    hidden = _name(_name(hidden, "bottleneck"), "product")
    return _name(products, "product"), (x_PM, hidden, siblings)


def _backward(form: KernelForm, residuals: tuple[Any, ...], gs: Arrays) -> Gradients:
    x_PM, hidden, siblings = residuals

    def meaning(
        x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        del hidden
        return _pull(form, x_PM, gs, siblings)

    if not form.has_backward:
        return meaning(x_PM, hidden, gs, siblings)
    gradients: Gradients = form.choose(
        form.backward, meaning, x_PM, hidden, gs, siblings
    )
    return gradients


multiply.defvjp(_forward, _backward)


def _meaning(form: KernelForm, x_PM: jax.Array, siblings: Siblings) -> Arrays:
    return bottleneck_products(x_PM, siblings, activation=form.activation)


def _pull(
    form: KernelForm, x_PM: jax.Array, gs: Arrays, siblings: Siblings
) -> Gradients:
    def product(x_PM: jax.Array, learnt: Siblings) -> Arrays:
        whole = (
            own._replace(kept_C=weights.kept_C)
            for own, weights in zip(learnt, siblings, strict=True)
        )
        return _meaning(form, x_PM, tuple(whole))

    learnt = tuple(weights._replace(kept_C=None) for weights in siblings)
    _, pull = jax.vjp(product, x_PM, learnt)
    gradients: Gradients = pull(gs)
    return gradients


def _name(arrays: Arrays, name: str) -> Arrays:
    return tuple(checkpoint_name(array, name) for array in arrays)


@functools.cache
def log_once(message: str) -> None:
    """Log a warning the first time that it is given."""
    logging.getLogger(__name__).warning(message)
