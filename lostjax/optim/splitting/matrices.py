"""Detection of the matrices in a tree of arrays, by rank and by name.

An optimiser that treats matrices specially needs to know which axes of an array are
multiplied with an input (reduction), which form an output, and which only stack
matrices (batch: the layers of a scan, experts). `optax.contrib.MuonDimensionNumbers`
describes them by reduction axes and output axes, as in `optax.contrib.muon`; all other
axes are batch axes. One tree of dimension numbers serves both optimisers.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
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
    if hasattr(params, "dtype") and np.ndim(params) == 0:
        raise ValueError(
            "params: is a number, the step that optax.inject_hyperparams passes to "
            "functions; list the argument in static_args=('density', 'matrices')"
        )
    pattern = re.compile(FULL_STATE_NAMES if full_state is None else full_state)
    # Masked nodes count as leaves here, because the pattern may match one of them.
    found = jax.tree.leaves_with_path(params, is_leaf=_is_masked)
    paths = [path_text(path).lower() for path, _ in found]
    if full_state is not None and paths and not any(map(pattern.search, paths)):
        raise ValueError(
            f"full_state={full_state!r}: matches none of the {len(paths)} arrays, "
            f"such as {paths[0]!r}; paths are in lower case"
            if paths[0]
            else f"full_state={full_state!r}: params is one array, which has no name"
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
