"""The methods: a loss, and how a network's outputs become risks and survival."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lostjax import losses
from lostjax.repro.papers.survival.splits import BINS, SHORT_BINS, Part, Problem


class Prediction(NamedTuple):
    """What a method says of subjects."""

    risks_B: jax.Array
    short_risks_B: jax.Array
    survival_BH: jax.Array


class Method(NamedTuple):
    """A loss, and how its network's outputs are read."""

    outputs: int
    loss: Callable[[jax.Array, Part], jax.Array]
    predict: Callable[[jax.Array, jax.Array, Problem], Prediction]
    """From outputs, those of the training subjects, and the split."""


def _long_loss(outputs: jax.Array, part: Part) -> jax.Array:
    """Compute the hazard loss of the long bins, weighted by clicks."""
    long = part.long
    values_B = losses.hazard_loss(outputs[:, :BINS], long.bins, events=long.events)
    return losses.weighted_mean(values_B, part.clicks_B)


def _short_loss(outputs: jax.Array, part: Part) -> jax.Array:
    short = part.short
    logits_BT = outputs[:, -SHORT_BINS:]
    return losses.hazard_loss(logits_BT, short.bins, events=short.events).mean()


def _pycox_loss(outputs: jax.Array, part: Part) -> jax.Array:
    bins_B = part.long.bins - ~part.long.events
    values_B = losses.hazard_loss(
        outputs, jnp.maximum(bins_B, 0), events=part.long.events
    )
    return jnp.mean(jnp.where(bins_B >= 0, values_B, 0.0))


def _regression_loss(outputs: jax.Array, part: Part, *, censored: bool) -> jax.Array:
    values_B = jnp.square(outputs[:, 0] - part.log_times_B)
    weights_B = jnp.ones_like(values_B) if censored else part.events_B
    return losses.weighted_mean(values_B, weights_B.astype(jnp.float32))


def _predict_long(outputs: jax.Array, _: Any, problem: Problem) -> Prediction:
    curve_BH = losses.survival_curve(outputs[:, :BINS])[:, :-1]
    middle = len(problem.horizons_H) // 2
    return Prediction(-curve_BH.sum(-1), -curve_BH[:, : middle + 1].sum(-1), curve_BH)


def _predict_short(outputs: jax.Array, _: Any, problem: Problem) -> Prediction:
    """Predict by the short bins, two for each long one; constant after them."""
    curve_BT = losses.survival_curve(outputs[:, -SHORT_BINS:])
    after = len(problem.horizons_H) - SHORT_BINS // 2
    curve_BH = jnp.pad(curve_BT[:, 1::2], ((0, 0), (0, after)), mode="edge")
    return Prediction(-curve_BT.sum(-1), -curve_BT.sum(-1), curve_BH)


def _predict_both(outputs: jax.Array, known: Any, problem: Problem) -> Prediction:
    short = _predict_short(outputs, known, problem)
    found = _predict_long(outputs, known, problem)
    return found._replace(short_risks_B=short.short_risks_B)


def _predict_cox(outputs: jax.Array, known: jax.Array, problem: Problem) -> Prediction:
    train, risks_B = problem.train, outputs[:, 0]
    curve_BH = losses.breslow_survival(
        risks_B,
        problem.horizons_H,
        train_risks_B=known[:, 0],
        times_B=train.times_B,
        events_B=train.events_B,
    )
    return Prediction(risks_B, risks_B, curve_BH)


def _predict_time(outputs: jax.Array, _: Any, problem: Problem) -> Prediction:
    curve_BH = (outputs > problem.log_horizons_H).astype(jnp.float32)
    return Prediction(-outputs[:, 0], -outputs[:, 0], curve_BH)


HAZARD = Method(BINS, _long_loss, _predict_long)
COX = Method(
    1,
    lambda outputs, part: losses.set_cox_loss(
        outputs[:, 0], part.times_B, events_B=part.events_B
    ),
    _predict_cox,
)
METHODS = {
    "hazard": HAZARD,
    "two heads": Method(
        BINS + SHORT_BINS,
        lambda out, part: (_long_loss(out, part) + _short_loss(out, part)) / 2,
        _predict_both,
    ),
    "short bins": Method(SHORT_BINS, _short_loss, _predict_short),
    "pycox's": Method(BINS, _pycox_loss, _predict_long),
    "Cox": COX,
    "regression": Method(1, partial(_regression_loss, censored=True), _predict_time),
    "events alone": Method(1, partial(_regression_loss, censored=False), _predict_time),
}
