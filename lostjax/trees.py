"""Trees of arrays: paths as text, bytes, and the size of each tensor's numbers."""

import math

import jax
import jax.numpy as jnp

from lostjax.typing import PyTree


def tensor_rms(tree: PyTree, *, leading_axes: int = 0) -> PyTree:
    """Compute the root mean square of every tensor of a tree.

    Args:
      tree: gradients, parameters or updates; any float type, computed in float32.
      leading_axes: axes that are kept, 1 for the layers that `nn.scan` stacks.

    Returns:
      The same tree with float32 arrays of the leading axes' shape; 0 for a tensor
      without elements.

    Raises:
      ValueError: a tensor with fewer axes than are to be kept.
    """

    def rms(leaf: jax.Array) -> jax.Array:
        if not 0 <= leading_axes <= leaf.ndim:
            raise ValueError(
                f"leading_axes={leading_axes}: a tensor of shape {leaf.shape} has "
                f"{leaf.ndim}"
            )
        axes = tuple(range(leading_axes, leaf.ndim))
        count = max(1, math.prod(leaf.shape[leading_axes:]))
        squares = jnp.square(leaf.astype(jnp.float32))
        return jnp.sqrt(jnp.sum(squares, axis=axes) / count)

    return jax.tree.map(rms, tree)


def path_text(path: tuple[object, ...]) -> str:
    """Write a tree path with slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def count_bytes(tree: object) -> int:
    """Sum the bytes of a tree's arrays or shapes."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
