"""How a model asks for its linear maps: it is given a function that makes them.

    linear(features=, name=, channel_groups=, dtype=) -> module

`channel_groups` reaches only maps that keep channels (LOST); `Ungrouped` gives the
others the same call.
"""

import dataclasses
from collections.abc import Callable

from jax.typing import DTypeLike

from lostjax.nn.linear.projection import Linear

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
