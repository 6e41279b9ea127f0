"""One contract for every linear map, and sibling maps that read the same input.

Query, key and value read the same x, and so do gate and up. `project` reads it once for
all of them; a single layer is a family of one, so there is one way through.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jax.typing import DTypeLike

from lostjax.typing import Array, Float

# What siblings may differ in: nothing else about how they are applied.
_OWN = {"features", "name", "parent", "kernel_init", "factorize", "choose_channels"}


@runtime_checkable
class Linear(Protocol):
    """What every linear map of the family offers."""

    features: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (..., M) to (..., N)."""

    def weights(self, in_features: int) -> Any:
        """Declare the parameters, on first use make them, and return them."""

    def products(
        self, x_PM: jax.Array, siblings: Sequence[Any]
    ) -> tuple[jax.Array, ...]:
        """Apply the weights of siblings like this layer to the same rows."""

    def parameter_count(self, in_features: int) -> int:
        """Count the trainable numbers."""

    def flops(self, in_features: int) -> int:
        """Count the forward FLOPs for each row, two per multiply-add."""


def project(
    layers: Sequence[Linear], x: Float[Array, "... M"]
) -> tuple[jax.Array, ...]:
    """Apply sibling layers to the same input, reading it once.

    Rows are flattened first: a CPU multiplies (B * T, M) at twice the rate of
    (B, T, M).

    Args:
        layers: bound layers of one class and with the same options; the number of
            features, the initialisation and the name may differ.
        x: the input (..., M).

    Returns:
        One output (..., N_i) for each layer, equal to `layer(x)`.

    Raises:
        ValueError: if the layers are not siblings.

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
    outputs = layers[0].products(x_PM, siblings)
    return tuple(y_PN.reshape(*x.shape[:-1], y_PN.shape[-1]) for y_PN in outputs)


def _options(layer: Any) -> tuple[type, dict[str, object]]:
    fields = dataclasses.fields(layer)
    values = {f.name: getattr(layer, f.name) for f in fields if f.name not in _OWN}
    return type(layer), values


MakeLinear = Callable[..., Linear]
"""Makes a linear map: `make(features=, name=, channel_groups=, dtype=)`."""


@dataclasses.dataclass(frozen=True)
class Ungrouped:
    """Makes linear maps that know no channel groups, with the call of those that do.

    Attributes:
        make: `Dense`, or another linear map with all but features, name and dtype
            given, as in `functools.partial(LowRank, rank=64)`.
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
        """Make a linear map; channel_groups is of no consequence to it."""
        del channel_groups
        return self.make(features=features, name=name, dtype=dtype)
