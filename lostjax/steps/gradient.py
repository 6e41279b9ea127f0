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
from jax.typing import ArrayLike

from lostjax.losses import next_token_loss, weighted_sums
from lostjax.steps.ascent import ascend
from lostjax.steps.head import sum_over_positions
from lostjax.steps.state import TrainState, model_variables
from lostjax.typing import Batch, PyTree, Variables

Reweighting = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(losses (B, T), weights (B, T), step (0-based)) -> factors (B,) with mean 1 over
tokens; no gradient flows through the factors."""


class Term(NamedTuple):
    """A part of the objective in addition to the cross entropy."""

    values: Callable[[TrainState, PyTree, jax.Array, jax.Array], jax.Array]
    """(state, prepared, targets_BT, logits_BTV) -> values_BT, for any subset of
    positions; no gradient flows into the state."""
    weight: Callable[[jax.Array], ArrayLike]
    """Number of batches consumed before this one -> weight of the term."""
    prepare: Callable[[TrainState, Batch], PyTree] = lambda state, batch: ()
    """Per-position inputs of `values`: (state, batch) -> arrays (B, T, ...)."""


class _Rows(NamedTuple):
    """Per-position inputs that accompany the final states."""

    targets_BT: jax.Array
    weights_BT: jax.Array
    factors_BT: jax.Array
    """Factors on the weights of the cross entropies."""
    prepared: dict[str, PyTree]
    """Inputs of each term, by name."""


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
    objective = _Objective(model, terms, reweight, remember, watch, shards)
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


class _Objective(NamedTuple):
    """The objective, and the values to return with it."""

    model: nn.Module
    terms: Mapping[str, Term]
    reweight: Reweighting | None
    remember: Callable[[jax.Array], PyTree]
    watch: bool
    shards: int

    def sum_up(
        self,
        params: PyTree,
        state: TrainState,
        batch: Batch,
        factors_B: jax.Array | None,
    ) -> tuple[jax.Array, Any]:
        """Sum the objective over a batch's positions; return all other values too.

        If `factors_B` is None, the factors are computed from the batch itself.
        """
        variables = {"params": params, "channels": state.channels}
        states_BTD, seen = _apply_watched(
            self.model, variables, batch, watch=self.watch
        )
        if factors_B is None and self.reweight is not None:
            values_BT = self.token_losses(params, states_BTD, batch)
            factors_B = self.reweight(values_BT, batch.weights_BT, state.step)
        if factors_B is None:
            # Factors of 1 keep one code path; the product costs nothing beside the
            # logits.
            factors_B = jnp.ones(len(batch.tokens_BT))
        rows = _Rows(
            batch.targets_BT,
            batch.weights_BT,
            jnp.broadcast_to(factors_B[:, None], batch.weights_BT.shape),
            {name: term.prepare(state, batch) for name, term in self.terms.items()},
        )
        whole, (sums, outputs) = sum_over_positions(
            partial(self._score, state),
            params["head"],
            states_BTD,
            rows,
            shards=self.shards,
        )
        return whole, (sums, jnp.sum(batch.weights_BT), (seen, outputs))

    def token_losses(
        self, params: PyTree, states_BTD: jax.Array, batch: Batch
    ) -> jax.Array:
        """Compute the loss of every token (B, T), without gradient."""

        def score(
            head: PyTree, states_BTD: jax.Array, targets_BT: jax.Array
        ) -> tuple[jax.Array, tuple[None, jax.Array]]:
            logits_BTV = unembed(self.model, head, states_BTD)
            return jnp.zeros(()), (None, next_token_loss(logits_BTV, targets_BT))

        # No backward pass: the factors are constants, and the model's graph is not
        # needed twice.
        head, states_BTD = jax.lax.stop_gradient((params["head"], states_BTD))
        values_BT: jax.Array
        _, (_, values_BT) = sum_over_positions(
            score, head, states_BTD, batch.targets_BT, shards=self.shards
        )
        return values_BT

    def _score(
        self, state: TrainState, head: PyTree, states_BTD: jax.Array, rows: _Rows
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
        """Sum the objective over some positions; return its parts and outputs too."""
        logits_BTV = unembed(self.model, head, states_BTD)
        values_BT = next_token_loss(logits_BTV, rows.targets_BT)
        sums = {"loss": weighted_sums(values_BT, rows.weights_BT)[0]}
        whole, _ = weighted_sums(values_BT, rows.weights_BT * rows.factors_BT)
        for name, term in self.terms.items():
            values_BT = term.values(
                state, rows.prepared[name], rows.targets_BT, logits_BTV
            )
            sums[name], _ = weighted_sums(values_BT, rows.weights_BT)
            # Weights follow batches and not steps: a rollback does not replay a
            # schedule.
            whole = whole + term.weight(state.batches) * sums[name]
        if self.watch:
            log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
            sums["mean_log_z"], _ = weighted_sums(log_z_BT, rows.weights_BT)
        return whole, (sums, self.remember(logits_BTV))


def _differentiate(
    objective: _Objective,
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
        values_BT = _accumulated(losses, batch, accumulate)[1]
        # All rows decide together, so micro-batches need a first pass over the whole
        # batch.
        factors_B = objective.reweight(values_BT, batch.weights_BT, state.step)
    made, (seen, outputs) = _accumulated(one, (batch, factors_B), accumulate)
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


def final_states(model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    """Compute the final states (B, T, D) of a batch, the input of the head."""
    states_BTD, _ = _apply_watched(model, variables, batch, watch=False)
    return states_BTD


def unembed(model: nn.Module, head: PyTree, states_BTD: jax.Array) -> jax.Array:
    """Compute the logits (B, T, V) from final states (B, T, D)."""
    logits_BTV = model.apply({"params": {"head": head}}, states_BTD, method="unembed")
    # `apply` returns a tuple only with mutable collections: this narrows the type.
    assert isinstance(logits_BTV, jax.Array)
    return logits_BTV


def _apply_watched(
    model: nn.Module, variables: Variables, batch: Batch, *, watch: bool
) -> tuple[jax.Array, Variables]:
    """Compute final states and, if `watch`, the values that layers sow, (1, ...)."""
    made = model.apply(
        variables,
        batch.tokens_BT,
        segments_BT=batch.segments_BT,
        positions_BT=batch.positions_BT,
        # Flax records sown values only if their collection is mutable.
        mutable=["intermediates"] if watch else False,
        method="final_states",
    )
    states_BTD, seen = made if watch else (made, {})
    assert isinstance(states_BTD, jax.Array)
    return states_BTD, jax.tree.map(lambda x: x[None], seen)


def _accumulated(
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
