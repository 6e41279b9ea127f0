"""A multi-layer perceptron, for experiments that take seconds.

    x_(l+1) = act(x_l W_l + b_l),    y = x_L W_L + b_L

Kernels are (in, out) and drawn by He's rule, of variance 2 / inputs (He et al.,
"Delving Deep into Rectifiers", 2015, arXiv:1502.01852); biases start at 0.

Cost for each row: 2 M N FLOPs a layer, forward.
"""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.typing import Activation, Array, Float


class MLP(nn.Module):
    """Dense layers with an activation between them; parameters `layer_0`, ....

    Attributes:
        widths: outputs of each layer, the last of them N; at least one. One alone is
            a linear map.
        activation: what stands between layers.
        kernel_init: draws the kernels.
        dtype: type to compute in; None takes the widest of input and parameters.
        param_dtype: type of the parameters.
    """

    widths: Sequence[int]
    activation: Activation = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        """Map (..., M) to (..., N)."""
        _require_widths(self.widths)
        for index, width in enumerate(self.widths):
            layer = nn.Dense(
                width,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{index}",
            )
            x = layer(self.activation(x) if index else x)
        return x

    def parameter_count(self, in_features: int) -> int:
        """Count the trainable numbers, biases among them."""
        return sum((m + 1) * n for m, n in self._shapes(in_features))

    def flops(self, in_features: int) -> int:
        """Count the forward FLOPs of the products for each row."""
        return sum(2 * m * n for m, n in self._shapes(in_features))

    def _shapes(self, in_features: int) -> list[tuple[int, int]]:
        _require_widths(self.widths)
        return list(itertools.pairwise((in_features, *self.widths)))


def _require_widths(widths: Sequence[int]) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"widths={tuple(widths)}: must be one or more, each positive")
