"""Training by episodes with one loss or several, and judging by others."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import Episode
from lostjax.nn import MLP
from lostjax.repro.papers.few_shot.sets import SHOT, Episodes, draw_seeds
from lostjax.steps import fit, map_runs
from lostjax.typing import PyTree

STOPS = 5
RATES = (1e-3, 3e-3, 1e-2)
SHOTS = (1, SHOT)
OWN, OTHER, WIDTH = (
    "error, mean",
    "error on the other set, mean",
    "95 % of 600 episodes",
)


@dataclasses.dataclass(frozen=True)
class Study:
    """Losses that are averaged, and the network that they train on each set."""

    terms: tuple[str, ...] = ("cross entropy",)
    """Some of `TERMS`; none: the network is not trained."""
    sets: tuple[str, str] = ("glyphs", "pictograms")
    hidden: int = 128
    features: int = 64
    """0: the pixels themselves."""
    steps: int = 300


def _cross_entropy(queries: jax.Array, own: jax.Array, protos: jax.Array) -> jax.Array:
    logits = losses.prototypical_logits(queries, protos)
    return losses.next_token_loss(logits, own).mean()


def _triplet(queries: jax.Array, own: jax.Array, protos: jax.Array) -> jax.Array:
    return losses.proto_triplet_loss(queries, own, prototypes_ND=protos).mean()


def _icnn(queries: jax.Array, own: jax.Array, _: jax.Array) -> jax.Array:
    return losses.set_icnn_loss(queries.reshape(-1, queries.shape[-1]), own.ravel())


TERMS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "cross entropy": _cross_entropy,
    "proto-triplet": _triplet,
    "ICNN": _icnn,
}
"""From queries (N, Q, D), their labels (N, Q) and prototypes (N, D) to a loss."""


def train_seeds(
    config: Study, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train on each of the sets; the errors on it and on the other, in percent.

    Those of sets that the scale leaves out are NaN.
    """
    assert learning_rate is None
    found: dict[str, np.ndarray] = {}
    widths = []
    for own, other in (config.sets, config.sets[::-1]):
        drawn = [draw_seeds(name, tuple(seeds), config.steps) for name in (own, other)]
        errors_SKW = judge_set(config, *drawn, seeds=seeds)
        for place, shot in enumerate(SHOTS):
            near, far = errors_SKW[:, place, :, 0].T
            found[name_place(own, shot)] = near
            found[name_place(f"{own} to {other}", shot)] = far
            widths.append(errors_SKW[:, place, :, 1].max(axis=-1))
    across = [name for name in found if " to " in name]
    means = {
        OWN: np.mean([found[name] for name in found if name not in across], axis=0),
        OTHER: np.mean([found[name] for name in across], axis=0),
        WIDTH: np.max(widths, axis=0),
    }
    unknown = dict.fromkeys(list_places(Study.sets), np.full(len(seeds), math.nan))
    return {k: v.tolist() for k, v in (means | unknown | found).items()}


def list_places(sets: tuple[str, str]) -> list[str]:
    """List what is measured of two sets: each, and from each to the other."""
    one, two = sets
    places = (one, two, f"{one} to {two}", f"{two} to {one}")
    return [name_place(place, shot) for place in places for shot in SHOTS]


def name_place(place: str, shot: int) -> str:
    """Name a measure."""
    return f"{place}, {shot} shot{'s' if shot > 1 else ''}"


def judge_set(
    study: Study, own: Episodes, other: Episodes, *, seeds: Sequence[int]
) -> np.ndarray:
    """Train on a set at every rate; judge where the classes that choose are best.

    Returns:
      Means over the episodes to judge by and half-widths of their 95 % intervals, in
      percent: (seeds, shots, own or other set, mean or half-width).
    """
    width = own.images_BM.shape[-1]
    starts = [
        make_network(study).init(jax.random.key(seed), jnp.zeros((1, width)))["params"]
        if study.features
        else {}
        for seed in seeds
    ]
    first = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    settings = [(rate, shot) for shot in SHOTS for rate in RATES]
    rates, shots = (jnp.asarray(values) for values in zip(*settings, strict=True))

    def run(seed: tuple[Any, ...], setting: tuple[jax.Array, jax.Array]) -> Any:
        return train(study, *seed, rate=setting[0], shot=setting[1])

    runs = map_runs(run)((own, other, first), (rates, shots))
    chosen_SRK, judged_SRK22 = jax.device_get(runs)
    found = np.empty((len(seeds), len(SHOTS), 2, 2))
    for seed in range(len(seeds)):
        for place in range(len(SHOTS)):
            at = slice(place * len(RATES), (place + 1) * len(RATES))
            best = int(np.argmin(chosen_SRK[seed, at]))
            found[seed, place] = judged_SRK22[seed, at].reshape(-1, 2, 2)[best]
    return found


def train(
    study: Study,
    own: Episodes,
    other: Episodes,
    params: PyTree,
    *,
    rate: jax.Array,
    shot: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Train one network; the error that chooses and those to judge by, at each stop."""
    tx = optax.adam(rate)

    def loss(params: PyTree, episode: Episode) -> jax.Array:
        rows = jnp.concatenate([episode.support_NS, episode.query_NQ], axis=1)
        features = embed(study, params, own.images_BM[rows])
        queries = features[:, SHOT:]
        protos = find_prototypes(features[:, :SHOT], shot)
        labels = jnp.broadcast_to(jnp.arange(len(rows))[:, None], queries.shape[:2])
        values = [TERMS[term](queries, labels, protos) for term in study.terms]
        return sum(values, start=jnp.float32(0)) / max(1, len(values))

    def step(state: PyTree, episode: Episode) -> tuple[PyTree, None]:
        params, opt_state = state
        updates, opt_state = tx.update(jax.grad(loss)(params, episode), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    def measure(state: PyTree) -> tuple[jax.Array, jax.Array]:
        near = embed(study, state[0], own.images_BM)
        far = embed(study, state[0], other.images_BM)
        chosen = count_errors(near, own.choose, shot)[0]
        judged = [
            count_errors(near, own.judge, shot),
            count_errors(far, other.judge, shot),
        ]
        return chosen, jnp.stack(judged)

    measured: tuple[jax.Array, jax.Array] = fit(
        step,
        (params, tx.init(params)),
        batch_at=lambda number: jax.tree.map(lambda leaf: leaf[number], own.train),
        n_steps=study.steps,
        log_every=study.steps // STOPS,
        measure=measure,
    ).measured
    return measured


def count_errors(
    features_BD: jax.Array, episodes: Episode, shot: jax.Array
) -> jax.Array:
    """Classify the queries of episodes by the nearest prototype.

    Returns:
      Mean error over the episodes and the half-width of its 95 % interval, in percent.
    """

    def judge(episode: Episode) -> jax.Array:
        protos = find_prototypes(features_BD[episode.support_NS], shot)
        queries = features_BD[episode.query_NQ]
        found = jnp.argmax(losses.prototypical_logits(queries, protos), axis=-1)
        return 100 * jnp.mean(found != jnp.arange(len(found))[:, None])

    # One after another: all at once would take their distances' memory.
    errors = jax.lax.map(judge, episodes)
    return jnp.stack([errors.mean(), 1.96 * errors.std(ddof=1) / len(errors) ** 0.5])


def find_prototypes(support_NSD: jax.Array, shot: jax.Array) -> jax.Array:
    """Average the first few examples of each class."""
    taken_S = (jnp.arange(support_NSD.shape[1]) < shot)[:, None]
    return jnp.sum(jnp.where(taken_S, support_NSD, 0.0), axis=1) / shot


def make_network(study: Study) -> MLP:
    """Build the network: one hidden layer."""
    return MLP((study.hidden, study.features))


def embed(study: Study, params: PyTree, images: jax.Array) -> jax.Array:
    """Compute features of images (..., M)."""
    if not study.features:
        return images
    return jnp.asarray(make_network(study).apply({"params": params}, images))
