"""A custom derivative for kernels, with a jnp fallback on other platforms.

TPU and GPU kernels share this module: one `custom_vjp` around a forward and a backward
kernel, and the jnp reference of both. x A (and other values that a kernel needs) is
saved for the backward pass under names that `jax.checkpoint` policies know.
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
"""`choose(kernel, meaning, *args)` applies either the kernel or its jnp reference."""

Siblings = tuple[BottleneckWeights, ...]
"""Weights of the matrices that one kernel applies to the same rows."""

Arrays = tuple[jax.Array, ...]
"""One array per sibling."""

Gradients = tuple[jax.Array, Siblings]
"""Gradients of the rows and of the weights."""


@runtime_checkable
class KernelForm(Protocol):
    """Kernels of a product. Hashable, and equal if they compute the same."""

    @property
    def activation(self) -> Activation | None:
        """Return the activation between the factors; None for the identity."""

    @property
    def choose(self) -> Choose:
        """Return the function that chooses between a kernel and its reference."""

    @property
    def has_backward(self) -> bool:
        """Return whether there is a kernel for the backward pass."""

    def forward(
        self, x_PM: jax.Array, siblings: Siblings, *, keep_hidden: bool
    ) -> tuple[Arrays, Arrays]:
        """Compute y and, if `keep_hidden`, the hidden values, by a kernel."""

    def hidden(self, x_PM: jax.Array, siblings: Siblings) -> Arrays:
        """Compute the hidden values in jnp.

        They only make the output types of kernel and reference equal: the reference
        of the backward pass does not read them.
        """

    def backward(
        self, x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        """Compute the gradients of rows and weights by a kernel."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(form: KernelForm, x_PM: Float[Array, "P M"], siblings: Siblings) -> Arrays:
    """Multiply rows by narrow matrices.

    Args:
        form: the kernels.
        x_PM: rows (P, M), of the computation dtype.
        siblings: weights of the matrices, of the same dtype.

    Returns:
        One product (P, N) per sibling.
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
    # One kernel computes both: a policy that saves only y would recompute the hidden
    # values by running it again.
    hidden = _name(_name(hidden, "bottleneck"), "product")
    return _name(products, "product"), (x_PM, hidden, siblings)


def _backward(form: KernelForm, residuals: tuple[Any, ...], gs: Arrays) -> Gradients:
    x_PM, hidden, siblings = residuals

    def meaning(
        x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        del hidden
        return _pull(form, x_PM, gs, siblings)

    # Large weights: a forward kernel may fit where the sums of a backward one do not.
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

    # Integer indices have no gradient: keep them out of the differentiated arguments.
    learnt = tuple(weights._replace(kept_C=None) for weights in siblings)
    _, pull = jax.vjp(product, x_PM, learnt)
    gradients: Gradients = pull(gs)
    return gradients


def _name(arrays: Arrays, name: str) -> Arrays:
    return tuple(checkpoint_name(array, name) for array in arrays)


@functools.cache
def log_once(message: str) -> None:
    """Log a warning on the first call with this message."""
    logging.getLogger(__name__).warning(message)
