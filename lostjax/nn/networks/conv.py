"""A small convolutional encoder, for experiments that take minutes.

    x_(l+1) = relu(conv(x_l) + b_l)        kernels 3 x 3, stride 2
    y       = mean of x_L over the positions

Each layer halves height and width, rounded up. Kernels are (3, 3, in, out) and drawn by
He's rule, of variance 2 / inputs (He et al., "Delving Deep into Rectifiers", 2015,
arXiv:1502.01852); biases start at 0. There is no normalisation: the features of an
image do not depend on the batch.

Cost for each image: 18 M N FLOPs a position of a layer's output, forward. A layer is
nine slices and one product: on a CPU a training step takes a sixth of the time that
XLA's convolution takes, and networks that `jax.vmap` trains side by side become a
product of many matrices instead of a grouped convolution. The slices take 9/4 of the
memory of the layer's input.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
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
                conv_general_dilated=_convolve,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{index}",
            )
            x = self.activation(layer(x))
        return x.mean(axis=(-3, -2))


def _convolve(
    x_BHWM: jax.Array,
    kernel_IJMN: jax.Array,
    strides: Sequence[int],
    padding: str,
    *,
    precision: Any,
    **_: Any,
) -> jax.Array:
    """Convolve by one product of slices; only what a layer above asks for."""
    sizes, window = x_BHWM.shape[1:3], kernel_IJMN.shape[:2]
    pads = jax.lax.padtype_to_pads(sizes, window, strides, padding)
    padded = jnp.pad(x_BHWM, ((0, 0), *pads, (0, 0)))
    height, width = (
        -(-size // stride) for size, stride in zip(sizes, strides, strict=True)
    )
    slices = [
        padded[
            :,
            row : row + (height - 1) * strides[0] + 1 : strides[0],
            column : column + (width - 1) * strides[1] + 1 : strides[1],
        ]
        for row in range(window[0])
        for column in range(window[1])
    ]
    patches = jnp.concatenate(slices, axis=-1)
    kernel = kernel_IJMN.reshape(-1, kernel_IJMN.shape[-1])
    return jnp.matmul(patches, kernel, precision=precision)
