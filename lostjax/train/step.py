"""One optimiser step: the only place where model, losses and optimiser meet.

objective = sum_t w_t (CE_t + sum_n c_n term_n,t) / sum_t w_t    over the global batch
gradients = d objective / d params, exact also over micro-batches: sums of weighted
            losses are accumulated and divided once by the sum of weights, so that
            micro-batches with different numbers of tokens count by their tokens.

With reweighting every row's cross entropies are multiplied by a factor that the losses
of all rows decide together. Micro-batches need those first: one more forward pass.

With a SAM radius r (Foret et al., "Sharpness-Aware Minimization for Efficiently
Improving Generalization", 2020, arXiv:2010.01412) the gradients are those at
params + r g / |g|, where g is the gradient of the whole batch at params: twice the
work.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lostjax.analysis import ascend
from lostjax.data.batches import Batch
from lostjax.losses import next_token_loss, weighted_sums
from lostjax.optim import write_outputs
from lostjax.train.reweighting import Reweighting
from lostjax.train.stability import take_readings
from lostjax.train.state import TrainState, model_variables
from lostjax.typing import PyTree, Variables

Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


class Term(NamedTuple):
    """A part of the objective besides cross entropy."""

    values: Callable[[TrainState, Batch, jax.Array], jax.Array]
    """(state, batch, logits_BTV) -> values_BT; no gradient enters the state."""
    weight: Callable[[jax.Array], ArrayLike]
    """Step -> weight."""


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    terms: Mapping[str, Term] = MappingProxyType({}),
    reweight: Reweighting | None = None,
    remember: Callable[[jax.Array], PyTree] = lambda logits_BTV: None,
    sam_radius: float = 0.0,
    watch: bool = False,
) -> TrainStep:
    """Build step(state, batch) -> state, metrics; pure, to be jitted by the caller.

    Args:
      model: `apply(variables, tokens_BT, segments_BT=, positions_BT=) -> logits_BTV`.
      tx: the optimiser.
      accumulate: micro-batches; divides the batch. Memory of activations falls by it.
      terms: what is minimised besides cross entropy, by the name of its metric.
      reweight: gives the factors of the batch's rows, of their cross entropies alone.
      remember: logits_BTV -> outputs (B, ...) for the state's memory, where it has one.
      sam_radius: where positive, the optimiser gets the gradient at that distance up
        the gradient; all else is of where the parameters are.
      watch: also give `readings`, see `train.stability`, and `mean_log_z` among the
        metrics. It costs a second product of queries and keys, and a pass over all
        tensors.

    Returns:
      The step. Its metrics, float32 scalars: `loss` (mean cross entropy in nats, never
      reweighted), the mean of each term before its weight, `gradient_norm` (global
      norm before clipping), `tokens` (weighted positions).
    """
    differentiate = _make_gradient(
        model,
        accumulate=accumulate,
        terms=terms,
        reweight=reweight,
        remember=remember,
        watch=watch,
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        here = differentiate(state.params, state, batch)
        grads = here.grads
        if sam_radius:
            above = ascend(state.params, grads, radius=sam_radius)
            grads = differentiate(above, state, batch).grads
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics: Metrics = dict(here.means)
        metrics |= {"gradient_norm": optax.tree.norm(grads), "tokens": here.weight}
        if watch:
            metrics["readings"] = take_readings(
                here.seen,
                mean_log_z=metrics["mean_log_z"],
                gradients=grads,
                parameters=state.params,
                updates=updates,
            )
        memory = state.memory
        if memory is not None:
            ids_B = _after(batch.example_B, sum(here.means.values(), jnp.zeros(())))
            memory = write_outputs(memory, ids_B, here.outputs, epoch=batch.epoch_B)
        after = TrainState(state.step + 1, params, state.channels, opt_state, memory)
        return after, metrics

    return step


class _Gradient(NamedTuple):
    """The gradient of a batch's objective, and what was seen on the way."""

    grads: PyTree
    means: dict[str, jax.Array]
    """Cross entropy and terms, means over the weighted positions."""
    weight: jax.Array
    """Sum of the positions' weights."""
    seen: PyTree
    """What the layers sowed, by row."""
    outputs: PyTree
    """What is remembered, by row."""


def _make_gradient(
    model: nn.Module,
    *,
    accumulate: int,
    terms: Mapping[str, Term],
    reweight: Reweighting | None,
    remember: Callable[[jax.Array], PyTree],
    watch: bool,
) -> Callable[[PyTree, TrainState, Batch], _Gradient]:
    """Build (params, state, batch) -> gradient at params; see `make_train_step`."""

    def objective(
        params: PyTree, state: TrainState, batch: Batch, factors_B: jax.Array | None
    ) -> Any:
        variables = {"params": params, "channels": state.channels}
        logits_BTV, seen = _apply_watched(model, variables, batch, watch=watch)
        values_BT = next_token_loss(logits_BTV, batch.targets_BT)
        total, weight = weighted_sums(values_BT, batch.weights_BT)
        sums, whole = {"loss": total}, total
        if reweight is not None:
            if factors_B is None:
                factors_B = reweight(values_BT, batch.weights_BT, state.step)
            weights_BT = batch.weights_BT * factors_B[:, None]
            whole, _ = weighted_sums(values_BT, weights_BT)
        for name, term in terms.items():
            values_BT = term.values(state, batch, logits_BTV)
            sums[name], _ = weighted_sums(values_BT, batch.weights_BT)
            whole = whole + term.weight(state.step) * sums[name]
        if watch:
            log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
            sums["mean_log_z"], _ = weighted_sums(log_z_BT, batch.weights_BT)
        return whole, (sums, weight, (seen, remember(logits_BTV)))

    gradient = jax.grad(objective, has_aux=True)

    def differentiate(params: PyTree, state: TrainState, batch: Batch) -> _Gradient:
        def one(part: tuple[Batch, jax.Array | None]) -> tuple[Any, PyTree]:
            grads, (sums, weight, rows) = gradient(params, state, *part)
            return (grads, sums, weight), rows

        factors_B = None
        if reweight is not None and accumulate > 1:
            values_BT = _token_losses(model, state, batch, parts=accumulate)
            factors_B = reweight(values_BT, batch.weights_BT, state.step)
        made, (seen, outputs) = _accumulated(one, (batch, factors_B), accumulate)
        grads, sums, weight = made
        scale = 1.0 / jnp.maximum(weight, 1e-9)
        return _Gradient(
            jax.tree.map(lambda grad: grad * scale, grads),
            {name: total * scale for name, total in sums.items()},
            weight,
            seen,
            outputs,
        )

    return differentiate


def make_eval_step(model: nn.Module) -> EvalStep:
    """Build eval(variables, batch) -> (sum of losses in nats, number of tokens)."""

    def step(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits_BTV = apply_model(model, variables, batch)
        values_BT = next_token_loss(logits_BTV, batch.targets_BT)
        return weighted_sums(values_BT, batch.weights_BT)

    return step


def apply_model(model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    """Give the logits (B, T, V) of a batch."""
    logits_BTV, _ = _apply_watched(model, variables, batch, watch=False)
    return logits_BTV


def _apply_watched(
    model: nn.Module, variables: Variables, batch: Batch, *, watch: bool
) -> tuple[jax.Array, Variables]:
    """Apply the model; where it is watched, also give what its layers sow, (1, ..)."""
    made = model.apply(
        variables,
        batch.tokens_BT,
        segments_BT=batch.segments_BT,
        positions_BT=batch.positions_BT,
        mutable=["intermediates"] if watch else False,
    )
    logits_BTV, seen = made if watch else (made, {})
    assert isinstance(logits_BTV, jax.Array)
    return logits_BTV, jax.tree.map(lambda x: x[None], seen)


def _token_losses(
    model: nn.Module, state: TrainState, batch: Batch, *, parts: int
) -> jax.Array:
    """Compute every token's loss (B, T) without gradient, a micro-batch at a time."""

    def one(part: Batch) -> tuple[None, jax.Array]:
        logits_BTV = apply_model(model, model_variables(state), part)
        return None, next_token_loss(logits_BTV, part.targets_BT)

    values_BT: jax.Array = _accumulated(one, batch, parts)[1]
    return values_BT


def _after(ids_B: jax.Array, value: jax.Array) -> jax.Array:
    """Give the ids as they are, but only once `value` is known.

    What is read from the memory must be read before the write, or the compiler copies
    the memory. An optimisation barrier would say so, but is lost on CPUs; what can be
    no number stays: both not a number and infinite.
    """
    never = jnp.isnan(value) & jnp.isinf(value)
    return ids_B + never.astype(ids_B.dtype)


def _accumulated(
    one: Callable[[Any], tuple[Any, PyTree]], batch: PyTree, parts: int
) -> tuple[Any, PyTree]:
    """Sum the first of what `one` gives over micro-batches, and join the second by row.

    Each micro-batch holds every parts-th row: strided rows keep it spread over all
    shards of the batch.
    """
    if parts == 1:
        return one(batch)
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch
    )
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))[0],
    )

    def add(total: Any, part: PyTree) -> tuple[Any, PyTree]:
        sums, rows = one(part)
        return jax.tree.map(jnp.add, total, sums), rows

    total, rows = jax.lax.scan(add, zeros, split)
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), rows)
    return total, rows


__all__ = [
    "EvalStep",
    "Metrics",
    "Term",
    "TrainStep",
    "apply_model",
    "make_eval_step",
    "make_train_step",
]
