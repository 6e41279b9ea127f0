"""Ways to forget, by name: the loss of each example that the program descends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lostjax.losses import (
    Divergence,
    direct_preference_loss,
    flat_loss,
    jeffreys_divergence,
    jensen_shannon_divergence,
    kl_divergence,
    negative_preference_loss,
    neyman_divergence,
    pearson_divergence,
    reverse_kl_divergence,
    sequence_means,
    simple_npo_loss,
    squared_hellinger,
    total_variation,
)
from lostjax.typing import Array, Batch

DIVERGENCES: dict[str, Divergence] = {
    "total_variation": total_variation,
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jensen_shannon": jensen_shannon_divergence,
    "pearson": pearson_divergence,
    "neyman": neyman_divergence,
    "squared_hellinger": squared_hellinger,
    "jeffreys": jeffreys_divergence,
}
"""Divergences of FLAT by their name on the command line."""


class Forgotten(NamedTuple):
    """What a step forgets; a method reads some of it."""

    answer: Batch
    template: Batch
    reference_B: Any
    """Log-probabilities of the answers under the model before."""
    template_reference_B: Any
    labels_BT: Any
    """Random tokens in the place of the answers'."""


ReadNats = Callable[[Batch], Array]
"""From rows to the cross entropy of each token, (B, T), with a gradient."""


class Method(NamedTuple):
    """A way to forget."""

    title: str
    losses: Callable[[ReadNats, Forgotten, "Settings"], Array]
    """A loss of each example, (B,)."""


class Settings(NamedTuple):
    """Numbers of methods."""

    divergence: Divergence = total_variation
    beta: float | None = None
    """Of NPO, SimNPO and DPO; None for each paper's own."""


def log_probability(nats_BT: Array, batch: Batch) -> Array:
    """Sum the log-probabilities of each answer."""
    return -jnp.sum(jnp.where(batch.weights_BT > 0, nats_BT, 0.0), axis=1)


def _flat(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    template, answer = (
        sequence_means(jnp.exp(-read(rows)), rows.weights_BT)
        for rows in (batch.template, batch.answer)
    )
    return flat_loss(template, answer, divergence=settings.divergence)


def _npo(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    now_B = log_probability(read(batch.answer), batch.answer)
    beta = 0.1 if settings.beta is None else settings.beta
    return negative_preference_loss(now_B, batch.reference_B, beta=beta)


def _simple_npo(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    now_B = log_probability(read(batch.answer), batch.answer)
    lengths_B = jnp.sum(batch.answer.weights_BT, axis=1)
    beta = 2.5 if settings.beta is None else settings.beta
    return simple_npo_loss(now_B, lengths_B, beta=beta)


def _dpo(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    return direct_preference_loss(
        log_probability(read(batch.template), batch.template),
        log_probability(read(batch.answer), batch.answer),
        chosen_reference_B=batch.template_reference_B,
        rejected_reference_B=batch.reference_B,
        beta=0.1 if settings.beta is None else settings.beta,
    )


def _ascent(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    return -sequence_means(read(batch.answer), batch.answer.weights_BT)


def _random_label(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    rows = batch.answer._replace(targets_BT=batch.labels_BT)
    return sequence_means(read(rows), rows.weights_BT)


def _template(read: ReadNats, batch: Forgotten, settings: Settings) -> Array:
    return sequence_means(read(batch.template), batch.template.weights_BT)


METHODS = {
    "flat": Method("FLAT", _flat),
    "npo": Method("NPO", _npo),
    "simple_npo": Method("SimNPO", _simple_npo),
    "dpo": Method("DPO", _dpo),
    "gradient_ascent": Method("gradient ascent", _ascent),
    "random_label": Method("random labels", _random_label),
    "template": Method("training on templates", _template),
}
"""Methods by their name on the command line."""
