"""The gradient of the training objective: cross entropy, terms, reweighting, SAM.

objective = sum_t w_t (CE_t + sum_n c_n term_n,t) / sum_t w_t    over the global batch
gradients = d objective / d params

Gradients are exact with micro-batches too: sums of weighted losses are accumulated and
divided once by the sum of weights, so micro-batches with different numbers of tokens
count by their tokens.

Reweighting multiplies the cross entropies of each row by a factor that depends on the
losses of all rows. With micro-batches these losses are needed first, which costs one
additional forward pass.

With a SAM radius r (Foret et al., "Sharpness-Aware Minimization for Efficiently
Improving Generalization", 2020, arXiv:2010.01412) the gradients are evaluated at
params + r g / |g|, where g is the gradient of the whole batch at params. This doubles
the work.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax.steps.objective import (
    Objective,
    Reweighting,
    Term,
    final_states,
    objective_weights,
)
from lostjax.steps.robust.ascent import ascend
from lostjax.steps.state import TrainState, model_variables
from lostjax.typing import Batch, PyTree


class Gradient(NamedTuple):
    """The gradient of a batch's objective, and values computed along the way."""

    grads: PyTree
    means: dict[str, jax.Array]
    """Cross entropy and terms, averaged over the positions by weight."""
    weight: jax.Array
    """Sum of the positions' weights, a scalar."""
    seen: PyTree
    """Values that the layers sowed, one row per micro-batch; None if unwatched."""
    outputs: PyTree
    """Outputs to remember, with a leading axis of rows."""


GradientOf = Callable[[TrainState, Batch], Gradient]
"""(state, batch) -> the gradient at the state's parameters; pure."""


def make_gradient(
    model: nn.Module,
    *,
    accumulate: int = 1,
    terms: Mapping[str, Term] = MappingProxyType({}),
    reweight: Reweighting | None = None,
    remember: Callable[[jax.Array], PyTree] = lambda logits_BTV: None,
    sam_radius: float = 0.0,
    watch: bool = False,
    shards: int = 1,
) -> GradientOf:
    """Build a pure function (state, batch) -> `Gradient`.

    Args:
      model: an `nn.Transformer`, or a module with its methods `final_states` and
        `unembed`, where `unembed` uses only the parameters under `head`.
      accumulate: number of micro-batches; must divide the batch. Activation memory
        falls by this factor.
      terms: terms to minimise in addition to the cross entropy, by name of their
        metric.
      reweight: computes the factors of the batch's rows; they apply to the cross
        entropies only.
      remember: logits_BTV -> outputs (B, T, ...) to write to the state's memory, if it
        has one.
      sam_radius: if positive, gradients are evaluated at this distance up the gradient;
        everything else is evaluated at the parameters themselves.
      watch: also return the values that the layers sow, and the mean `mean_log_z`.
        Costs a second product of queries and keys.
      shards: number of contiguous parts of the batch's rows on different devices.

    Returns:
      The gradient function.
    """
    objective = Objective(model, terms, reweight, remember, watch, shards)
    differentiate = partial(_differentiate, objective, accumulate)

    def gradient(state: TrainState, batch: Batch) -> Gradient:
        here = differentiate(state.params, state, batch)
        if not sam_radius:
            return here
        # The gradient of the whole batch: per micro-batch ascents would be another
        # method (m-SAM).
        above = ascend(state.params, here.grads, radius=sam_radius)
        return here._replace(grads=differentiate(above, state, batch).grads)

    return gradient


def _differentiate(
    objective: Objective,
    accumulate: int,
    params: PyTree,
    state: TrainState,
    batch: Batch,
) -> Gradient:
    """Compute the gradient at `params`, one micro-batch at a time."""
    gradient = jax.grad(objective.sum_up, has_aux=True)

    def one(part: tuple[Batch, jax.Array | None]) -> tuple[Any, PyTree]:
        grads, (sums, weight, rows) = gradient(params, state, *part)
        return (grads, sums, weight), rows

    def losses(part: Batch) -> tuple[None, jax.Array]:
        states_BTD = final_states(objective.model, model_variables(state), part)
        return None, objective.token_losses(params, states_BTD, part)

    factors_B = None
    if objective.reweight is not None and accumulate > 1:
        values_BT = map_micro_batches(losses, batch, accumulate)[1]
        # All rows decide together, so micro-batches need a first pass over the whole
        # batch.
        factors_B = objective.reweight(values_BT, objective_weights(batch), state.step)
    made, (seen, outputs) = map_micro_batches(one, (batch, factors_B), accumulate)
    grads, sums, weight = made
    # A batch of padding alone has weight 0: the floor makes its gradient 0 instead of
    # NaN.
    scale = 1.0 / jnp.maximum(weight, 1e-9)
    return Gradient(
        jax.tree.map(lambda grad: grad * scale, grads),
        {name: total * scale for name, total in sums.items()},
        weight,
        seen if objective.watch else None,
        outputs,
    )


def map_micro_batches(
    one: Callable[[Any], tuple[Any, PyTree]], batch: PyTree, parts: int
) -> tuple[Any, PyTree]:
    """Run `one` over micro-batches; sum its first result, join its second by row.

    Micro-batch i consists of the rows i, i + parts, i + 2 parts, ...: strided rows keep
    every micro-batch spread over all shards of the batch.
    """
    if parts == 1:
        return one(batch)
    split = jax.tree.map(
        # reshape(-1, parts) puts neighbouring rows into different micro-batches.
        lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0),
        batch,
    )
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))[0],
    )

    def add(total: Any, part: PyTree) -> tuple[Any, PyTree]:
        sums, rows = one(part)
        return jax.tree.map(jnp.add, total, sums), rows

    # A scan, so that only one micro-batch's activations are alive at a time.
    total, rows = jax.lax.scan(add, zeros, split)
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), rows)
    return total, rows
