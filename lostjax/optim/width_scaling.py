"""Learning rates that stay right as a model grows wider: muP, for Adam.

    rate of a matrix inside the model   eta x base fan-in / fan-in
    rate of anything else               eta

Adam's update has entries of size one whatever the gradient's, so a matrix of fan-in M
moves its output by eta M: with eta falling as 1 / M features learn at the same speed at
every width, and the best eta of a narrow model is that of a wide one. What its fan-in
does not grow with the width keeps its rate: the embedding (a row is read, not summed),
norms, scalars.

The factors of a low-rank map are matrices of fan-in M and R, kept channels of fan-in C;
where R and C grow with the width all three follow the same rule. The head falls under
it, too: with a start of standard deviation ~ 1 / M it is, under Adam, the same as a
constant rate and start behind an output multiplier of 1 / M, and needs none in the
model. Only epsilon tells the two apart.

Yang & Hu et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
Hyperparameter Transfer", 2022, arXiv:2203.03466 (table 3). What belongs to it and is
not here: the start's standard deviations (~ fan-in^-1/2 inside, ~ 1 / fan-in at the
head, constant in the embedding), and attention's scale, which stays 1 / sqrt(K) where
heads grow in number and not in width.
"""

from typing import Any

import jax
import optax

from lostjax.optim.masks import leaf_name
from lostjax.typing import PyTree

MATRIX_NAMES = frozenset({"kernel", "a", "b", "values"})
"""Last path components of matrices (.., fan-in, fan-out)."""


def width_multipliers(params: PyTree, base_params: PyTree) -> PyTree:
    """Compute every tensor's learning-rate multiplier against a base model.

    Args:
      params: a nest of dicts of arrays or of `jax.ShapeDtypeStruct`.
      base_params: the same nest of the base model, at which all multipliers are 1.

    Returns:
      The same nest of floats: base fan-in / fan-in of matrices, 1 elsewhere.

    Raises:
      ValueError: where the nests differ, or the ranks of a tensor.
    """
    ours, theirs = jax.tree.structure(params), jax.tree.structure(base_params)
    if str(ours) != str(theirs):
        raise ValueError("base_params: its tensors are not those of params")

    def multiplier(path: tuple[object, ...], leaf: Any, base: Any) -> float:
        if len(leaf.shape) != len(base.shape):
            raise ValueError(f"base_params: shape {base.shape} against {leaf.shape}")
        if leaf_name(path) not in MATRIX_NAMES or len(leaf.shape) < 2:
            return 1.0
        return float(base.shape[-2] / leaf.shape[-2])

    return jax.tree_util.tree_map_with_path(multiplier, params, base_params)


def scale_by_tensor(multipliers: PyTree) -> optax.GradientTransformation:
    """Multiply the update of every tensor by a number of its own; keeps no state.

    Behind `optax.scale_by_adam` and before weight decay it makes learning rates, and
    the decay stays the schedule's.

    Args:
      multipliers: a nest of numbers like the parameters'.

    Returns:
      A transformation of updates of that structure.
    """

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return jax.tree.map(lambda factor, x: factor * x, multipliers, updates)

    return optax.stateless(scale)
