"""The common interface of linear maps, and joint application of sibling maps.

Siblings are maps that read the same input: query, key and value, or gate and up.
`project` reads x once for all of them. A single layer is a list of one sibling, so that
every product takes the same code path.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from lostjax.typing import Array, Float

# The only attributes in which siblings may differ.
_OWN = {"features", "name", "parent", "kernel_init", "factorize", "choose_channels"}


@runtime_checkable
class Linear(Protocol):
    """The interface of every linear map."""

    features: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x (..., M) to (..., N)."""

    def weights(self, in_features: int) -> Any:
        """Return the parameters for M = in_features, declaring them on first use."""

    def products(
        self, x_PM: jax.Array, siblings: Sequence[Any]
    ) -> tuple[jax.Array, ...]:
        """Multiply the rows (P, M) by the weights of each sibling of this layer."""

    def parameter_count(self, in_features: int) -> int:
        """Return the number of trainable parameters."""

    def flops(self, in_features: int) -> int:
        """Return the forward FLOPs per row, two per multiply-add."""


def project(
    layers: Sequence[Linear], x: Float[Array, "... M"]
) -> tuple[jax.Array, ...]:
    """Apply sibling layers to the same input, reading it once.

    Args:
        layers: bound layers of one class with equal options; only the number of
            features, the initialisation and the name may differ.
        x: input (..., M).

    Returns:
        One output (..., N_i) per layer, equal to `layer(x)`.

    Raises:
        ValueError: if `layers` is empty or the layers are not siblings.

    Example:
        q, k, v = project((self.query, self.key, self.value), x_BTD)
    """
    if not layers:
        raise ValueError("layers=() is empty: project needs at least one layer")
    for layer in layers[1:]:
        if _options(layer) != _options(layers[0]):
            raise ValueError(
                f"layers={tuple(layers)} are not siblings: one class and the same "
                f"options are needed, but {_options(layer)} != {_options(layers[0])}"
            )
    x_PM = x.reshape(-1, x.shape[-1])
    siblings = [layer.weights(x.shape[-1]) for layer in layers]
    # Flat rows: a CPU multiplies (B * T, M) at twice the rate of (B, T, M).
    outputs = layers[0].products(x_PM, siblings)
    return tuple(y_PN.reshape(*x.shape[:-1], y_PN.shape[-1]) for y_PN in outputs)


def _options(layer: Any) -> tuple[type, dict[str, object]]:
    fields = dataclasses.fields(layer)
    values = {f.name: getattr(layer, f.name) for f in fields if f.name not in _OWN}
    return type(layer), values


MakeLinear = Callable[..., Linear]
"""Factory of linear maps, called as `make(features=, name=, channel_groups=, dtype=)`.
"""


@dataclasses.dataclass(frozen=True)
class Ungrouped:
    """Factory of linear maps that have no channel groups.

    It accepts `channel_groups`, so that callers can treat all factories alike.

    Attributes:
        make: a class such as `Dense`, or a partial of one that needs only features,
            name and dtype, such as `functools.partial(LowRank, rank=64)`.
    """

    make: MakeLinear

    def __call__(
        self,
        *,
        features: int,
        name: str | None = None,
        channel_groups: int = 1,
        dtype: DTypeLike | None = None,
    ) -> Linear:
        """Build a linear map; `channel_groups` is ignored."""
        del channel_groups
        return self.make(features=features, name=name, dtype=dtype)


def require_channels(layer: nn.Module, name: str) -> None:
    """Raise a ValueError if `apply` was called without the collection `channels`."""
    if not layer.is_initializing() and not layer.has_variable("channels", name):
        raise ValueError(
            f"{type(layer).__name__} needs the collection 'channels' that `init` "
            "returns beside 'params': pass {**variables, 'params': params} to `apply`, "
            "not {'params': params} alone"
        )
