"""A small convolutional encoder, for experiments that take minutes.

    x_(l+1) = relu(conv(x_l) + b_l)        kernels 3 x 3, stride 2
    y       = mean of x_L over the positions

Each layer halves height and width, rounded up. Kernels are (3, 3, in, out) and drawn by
He's rule, of variance 2 / inputs (He et al., "Delving Deep into Rectifiers", 2015,
arXiv:1502.01852); biases start at 0. There is no normalisation: the features of an
image do not depend on the batch.

Cost for each image: 18 M N FLOPs a position of a layer's output, forward.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.typing import Activation, Array, Float


class ConvNet(nn.Module):
    """Strided convolutions and a mean over positions; parameters `layer_0`, ....

    Attributes:
        widths: channels of each layer, the last of them the features N; at least one.
        activation: follows each layer.
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
    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... N"]:
        """Map images (..., H, W, C) to features (..., N)."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError(
                f"widths={tuple(self.widths)}: must be one or more, each positive"
            )
        for index, width in enumerate(self.widths):
            layer = nn.Conv(
                width,
                (3, 3),
                strides=(2, 2),
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{index}",
            )
            x = self.activation(layer(x))
        return x.mean(axis=(-3, -2))
