"""Learning rates that transfer across model widths: muP for Adam.

    rate of a matrix inside the model   eta x base fan-in / fan-in
    rate of anything else               eta

The entries of Adam's update have size one, whatever the gradient's size, so a matrix of
fan-in M changes its output by about eta M. If eta falls as 1 / M, features learn at the
same speed at every width, and the best eta of a narrow model is also best for a wide
one. Parameters whose fan-in does not grow with the width keep their rate: the embedding
(a row is read, not summed), norms, scalars.

The factors of a low-rank map are matrices of fan-in M and R, kept channels have fan-in
C; if R and C grow with the width, all three follow the same rule. So does the head:
initialised with standard deviation ~ 1 / M, it is equivalent under Adam to a constant
rate and initialisation with an output multiplier of 1 / M, so the model needs no such
multiplier. The two differ only in the effect of epsilon.

Yang & Hu et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
Hyperparameter Transfer", 2022, arXiv:2203.03466 (table 3). Other parts of muP are not
implemented here: the standard deviations of the initialisation (~ fan-in^-1/2 inside,
~ 1 / fan-in for the head, constant for the embedding), and the scale of attention,
which stays 1 / sqrt(K) if heads grow in number and not in width.
"""

from typing import Any

import jax
import optax

from lostjax.optim.masks import leaf_name
from lostjax.typing import PyTree

MATRIX_NAMES = frozenset({"kernel", "a", "b", "values"})
"""Last path components of matrices (..., fan-in, fan-out)."""


def width_multipliers(params: PyTree, base_params: PyTree) -> PyTree:
    """Compute the learning-rate multiplier of every tensor relative to a base model.

    Args:
      params: a nest of dicts of arrays or of `jax.ShapeDtypeStruct`.
      base_params: the same nest for the base model, whose multipliers are all 1.

    Returns:
      The same nest of floats: base fan-in / fan-in for matrices, 1 elsewhere.

    Raises:
      ValueError: if the structures differ, or a tensor's rank.
    """
    ours, theirs = jax.tree.structure(params), jax.tree.structure(base_params)
    if str(ours) != str(theirs):
        raise ValueError("base_params: must have the same tensors as params")

    def multiplier(path: tuple[object, ...], leaf: Any, base: Any) -> float:
        if len(leaf.shape) != len(base.shape):
            raise ValueError(
                f"base_params: shape {base.shape} must have the rank of {leaf.shape}"
            )
        if leaf_name(path) not in MATRIX_NAMES or len(leaf.shape) < 2:
            return 1.0
        # Axis -2 is the fan-in, also for stacks of layers.
        return float(base.shape[-2] / leaf.shape[-2])

    return jax.tree_util.tree_map_with_path(multiplier, params, base_params)


def scale_by_tensor(multipliers: PyTree) -> optax.GradientTransformation:
    """Multiply the update of every tensor by its own number; keeps no state.

    Placed after `optax.scale_by_adam` and before weight decay it scales the learning
    rates, while the decay still follows the schedule.

    Args:
      multipliers: a nest of numbers with the structure of the parameters.

    Returns:
      A transformation of updates with that structure.
    """

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return jax.tree.map(lambda factor, x: factor * x, multipliers, updates)

    return optax.stateless(scale)
