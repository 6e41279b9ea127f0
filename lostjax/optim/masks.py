"""Masks: trees of booleans that select the parameters of a transformation.

Weight decay shrinks matrices. For scales (RMSNorm's, a learnt gamma) it is a bias
towards a wrong value, so they are excluded. They are identified by name, because
`nn.scan` stacks scales to two axes and their rank no longer distinguishes them.
"""

from typing import Any

import jax

from lostjax.typing import PyTree

UNDECAYED_NAMES = frozenset({"scale", "bias", "gamma"})
"""Last path components of parameters that never decay."""


def mask_decayed(params: PyTree) -> PyTree:
    """Build the mask of the parameters that weight decay applies to.

    Args:
      params: a nest of dicts of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The same nest with True at matrices and False at scales, biases and scalars.
    """

    def is_decayed(path: tuple[object, ...], leaf: Any) -> bool:
        # A scalar is a scale or a temperature, whatever its name.
        return leaf.ndim >= 1 and leaf_name(path) not in UNDECAYED_NAMES

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def leaf_name(path: tuple[object, ...]) -> str:
    """Return the last component of a leaf's path; empty for a tree of one leaf."""
    return str(getattr(path[-1], "key", getattr(path[-1], "name", ""))) if path else ""
