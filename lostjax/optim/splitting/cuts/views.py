"""Views of arrays of any rank as stacks of matrices (*batch, inputs, outputs).

    (all axes) -> (*batch, M, N)     M: product of the reduction axes, N: of the outputs

`optax.contrib.MuonDimensionNumbers` names the reduction axes, which are multiplied with
an input, and the output axes; all other axes only stack matrices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers


class MatrixView(NamedTuple):
    """View of an array of any rank as a stack of matrices (*batch, M, N)."""

    shape: tuple[int, ...]
    """Shape of the array."""
    batch: tuple[int, ...]
    """Axes that stack matrices."""
    reduction: tuple[int, ...]
    """Axes that form M, the inputs."""
    output: tuple[int, ...]
    """Axes that form N, the outputs."""

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the stack, (*batch, M, N)."""
        sizes = [self.shape[axis] for axis in self.batch]
        for axes in (self.reduction, self.output):
            size = 1
            for axis in axes:
                size *= self.shape[axis]
            sizes.append(size)
        return tuple(sizes)

    def to_matrices(self, x: jax.Array) -> jax.Array:
        """Convert an array of `shape` to (*batch, M, N)."""
        return _merge(_transpose(x, self._order), self.matrix_shape)

    def from_matrices(self, x: jax.Array) -> jax.Array:
        """Convert (*batch, M, N) to an array of `shape`."""
        shape = tuple(self.shape[axis] for axis in self._order)
        return _transpose(_merge(x, shape), _inverse(self._order))

    def to_state(self, x: jax.Array) -> jax.Array:
        """Convert a reduced stack (*batch, m, n) to the axis order of the array.

        State with the rank of its parameter can use the parameter's partition spec and
        axis names. m and n are placed on the last reduction axis and the last output
        axis.
        """
        m, n = x.shape[-2:]
        # Other axes of a kind become 1: the rank stays that of the parameter.
        ones = ((1,) * (len(axes) - 1) for axes in (self.reduction, self.output))
        shape = (*x.shape[:-2], *next(ones), m, *next(ones), n)
        return _transpose(x.reshape(shape), _inverse(self._order))

    def from_state(self, x: jax.Array) -> jax.Array:
        """Undo `to_state`."""
        y = _transpose(x, self._order)
        n_batch, n_rows = len(self.batch), len(self.reduction)
        m, n = y.shape[n_batch + n_rows - 1], y.shape[-1]
        return y.reshape(*y.shape[:n_batch], m, n)

    @property
    def _order(self) -> tuple[int, ...]:
        return self.batch + self.reduction + self.output


def view_matrices(
    shape: tuple[int, ...], numbers: MuonDimensionNumbers, *, name: str
) -> MatrixView:
    """Resolve dimension numbers for an array.

    Args:
      shape: shape of the array.
      numbers: its reduction and output axes; all others are batch axes.
      name: name of the array, for error messages.

    Returns:
      The view.

    Raises:
      ValueError: if axes are out of range or repeated, one kind is missing, or the
        array has no entries.
    """
    if 0 in shape:
        raise ValueError(f"matrices: {name} of shape {shape} has no entries")

    def resolve(axes: Any) -> tuple[int, ...]:
        given = (axes,) if isinstance(axes, int) else tuple(axes)
        rank = len(shape)
        if not given or any(not -rank <= axis < rank for axis in given):
            raise ValueError(
                f"matrices: {name} of shape {shape} has no axes {axes}; axes must lie "
                f"in [-{rank}, {rank})"
            )
        # Normalise negative axes, so that duplicates such as 1 and -1 are found.
        return tuple(axis % rank for axis in given)

    reduction, output = resolve(numbers.reduction_axis), resolve(numbers.output_axis)
    used = reduction + output
    if len(set(used)) != len(used):
        raise ValueError(
            f"matrices: {name} of shape {shape}: reduction axes {reduction} and output "
            f"axes {output} must be different"
        )
    batch = tuple(axis for axis in range(len(shape)) if axis not in used)
    return MatrixView(tuple(shape), batch, reduction, output)


def _transpose(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    # Skip the identity, so that the common case adds no operation to the program.
    return x if order == tuple(range(x.ndim)) else jnp.transpose(x, order)


def _merge(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x if x.shape == shape else x.reshape(shape)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))
