"""Which parameters a transformation touches: trees of booleans.

Weight decay shrinks matrices. On scales (RMSNorm's, a learnt gamma) it is a bias
towards a wrong value, so they are left out, by name: under `nn.scan` a scale is
stacked to two axes and its rank no longer tells it apart.
"""

from typing import Any

import jax

from lostjax.typing import PyTree

UNDECAYED_NAMES = frozenset({"scale", "bias", "gamma"})
"""Last path components that are never decayed."""


def mask_decayed(params: PyTree) -> PyTree:
    """Mark the parameters that weight decay applies to.

    Args:
      params: a nest of dicts of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The same nest with True at matrices and False at scales, biases and scalars.
    """

    def is_decayed(path: tuple[object, ...], leaf: Any) -> bool:
        return leaf.ndim >= 1 and leaf_name(path) not in UNDECAYED_NAMES

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def leaf_name(path: tuple[object, ...]) -> str:
    """Give the last component of a leaf's path; empty for a tree of one leaf."""
    return str(getattr(path[-1], "key", getattr(path[-1], "name", ""))) if path else ""
