"""Operations on trees of arrays: text of paths, byte counts, RMS of every tensor."""

import math

import jax
import jax.numpy as jnp

from lostjax.typing import PyTree


def tensor_rms(tree: PyTree, *, leading_axes: int = 0) -> PyTree:
    """Compute the root mean square of every tensor of a tree.

    Args:
      tree: gradients, parameters or updates of any float type; computed in float32.
      leading_axes: number of leading axes to keep, at least 0; 1 keeps the layer axis
        that `nn.scan` stacks.

    Returns:
      A tree of the same structure. Each leaf is a float32 array with the shape of the
      kept axes; it is 0 if the tensor has no elements.

    Raises:
      ValueError: if a tensor has fewer axes than `leading_axes`.
    """

    def rms(leaf: jax.Array) -> jax.Array:
        if not 0 <= leading_axes <= leaf.ndim:
            raise ValueError(
                f"leading_axes={leading_axes}: a tensor of shape {leaf.shape} has "
                f"{leaf.ndim} axes"
            )
        axes = tuple(range(leading_axes, leaf.ndim))
        # At least 1: the mean of an empty tensor would be 0 / 0.
        count = max(1, math.prod(leaf.shape[leading_axes:]))
        # float32 because squares of small float16 numbers underflow and bfloat16 sums
        # lose digits.
        squares = jnp.square(leaf.astype(jnp.float32))
        return jnp.sqrt(jnp.sum(squares, axis=axes) / count)

    return jax.tree.map(rms, tree)


def path_text(path: tuple[object, ...]) -> str:
    """Format a tree path as text with slashes, such as `layers/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def count_bytes(tree: object) -> int:
    """Count the bytes of all arrays in a tree; shapes (`jax.ShapeDtypeStruct`) count
    too."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
