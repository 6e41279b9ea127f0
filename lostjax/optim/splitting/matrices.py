"""Detection of matrices in a tree, and views of arrays as (batch, inputs, outputs).

An optimiser that treats matrices specially needs to know which axes of an array are
multiplied with an input (reduction), which form an output, and which only stack
matrices (batch: the layers of a scan, experts). `optax.contrib.MuonDimensionNumbers`
describes them by reduction axes and output axes, as in `optax.contrib.muon`; all other
axes are batch axes. One tree of dimension numbers serves both optimisers.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from lostjax.trees import path_text
from lostjax.typing import PyTree

FULL_STATE_NAMES = (
    r"(^|[/.])("
    r"\w*embed\w*|wte|wpe"
    r"|\w*(?<!multi)(?<!multi_)head(_?\d+)?|logits\w*|classifier\w*"
    r"|\w*norm(_?\d+|_f)?|ln(\d+|_\w+)?|\w*(scale|bias|gamma|beta|offset)"
    r")($|[/.])"
)
"""Pattern, on the lower-case path of a leaf, of arrays that are not a layer's matrix:
path components, between slashes or dots, that name embeddings, output heads, norms,
scales or biases. `lm_head`, `model.embed_tokens.weight` and `final_norm/scale` match;
`multi_head_attention/query/w` does not."""

MatricesOrRule = PyTree | Callable[[PyTree], PyTree]
"""Either a tree (or a prefix of one) or a function that builds it from the parameters.
Its leaves are `MuonDimensionNumbers`, or True for the last two axes, or None or False
for an array that is not a matrix."""

LAST_TWO_AXES = MuonDimensionNumbers(-2, -1)


def find_matrices(params: PyTree, *, full_state: str | None = None) -> PyTree:
    """Find the matrices of layers by rank, except those excluded by name.

    An array of rank 2 or more is a stack of matrices, unless its path matches
    `full_state`. Its last two axes are inputs and outputs, and all others are batch
    axes. In a tree without names, such as a list, only the rank decides; if it contains
    an embedding or a head, pass your own tree of dimension numbers. Also pass your own
    tree for

    - kernels (D, H, K) and (H, K, D) of flax's attention if H and K are to form one
      axis: `MuonDimensionNumbers(-3, (-2, -1))` and `((-3, -2), -1)`. By default they
      are D matrices (H, K), which suits `columns` but neither `rows` nor an SVD, and
      `blocks` would treat D as layers;
    - layers that are stacked on an axis other than the first;
    - weights (outputs, inputs), as in PyTorch: their columns are inputs;
    - stacked vectors, such as biases (L, N), whose names do not reveal it.

    Args:
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.
      full_state: pattern of arrays to exclude (`re.search` on a lower-case path such as
        `layers/mlp/up/kernel`); None for `FULL_STATE_NAMES`, which matches embeddings,
        norms and output heads.

    Returns:
      The same tree with `MuonDimensionNumbers` at matrices and None elsewhere.

    Raises:
      ValueError: if a pattern is given and matches nothing.
    """
    pattern = re.compile(FULL_STATE_NAMES if full_state is None else full_state)
    # Masked nodes count as leaves here, because the pattern may match one of them.
    found = jax.tree.leaves_with_path(params, is_leaf=_is_masked)
    paths = [path_text(path).lower() for path, _ in found]
    if full_state is not None and paths and not any(map(pattern.search, paths)):
        raise ValueError(
            f"full_state={full_state!r}: matches none of the {len(paths)} arrays, "
            f"such as {paths[0]!r}"
        )

    def label(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        shape = np.shape(leaf)
        # An empty array has no entries to keep; its SVD would fail.
        is_matrix = len(shape) >= 2 and 0 not in shape
        if not is_matrix or pattern.search(path_text(path).lower()):
            return None
        return LAST_TWO_AXES

    return jax.tree.map_with_path(label, params)


def match_matrices(
    params: PyTree, matrices: MatricesOrRule | None
) -> list[MuonDimensionNumbers | None]:
    """Return the dimension numbers of each leaf of a tree, in order of the leaves.

    Args:
      params: a tree of arrays; `optax.MaskedNode` is skipped.
      matrices: see `MatricesOrRule`; None for `find_matrices`.

    Returns:
      `MuonDimensionNumbers` or None for each leaf.

    Raises:
      ValueError: if `matrices` is not a prefix of the tree, or contains other values.
    """
    structure: Any = jax.tree.structure(params)
    if not structure.num_leaves:  # such as the tree that optax.tree.map_params builds
        return []
    if matrices is None:
        matrices = find_matrices
    spec = matrices(params) if callable(matrices) else matrices
    try:
        tree = jax.tree.broadcast(spec, params, is_leaf=_is_label)
    except ValueError as error:
        raise ValueError(f"matrices: not a prefix of the parameters: {error}") from None
    # Not jax.tree.leaves: it drops None, which is a label here.
    return [_read_label(label) for label in structure.flatten_up_to(tree)]


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


def _is_label(x: Any) -> bool:
    return x is None or isinstance(x, MuonDimensionNumbers)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _read_label(label: Any) -> MuonDimensionNumbers | None:
    if label is None or isinstance(label, MuonDimensionNumbers):
        return label
    if isinstance(label, (bool, np.bool_)):
        return LAST_TWO_AXES if label else None
    raise ValueError(
        f"matrices: contains {label!r}; each leaf must be MuonDimensionNumbers, None "
        "or a bool"
    )
