"""Ways to make a diffusion model forget a class, and what it draws then."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from lostjax.nn import add_noise, find_noise
from lostjax.optim import mask_updates, saliency_mask, score_saliency
from lostjax.repro.papers.salun_images.worlds import (
    CLASSES,
    SIGNALS_N,
    World,
    draw_with,
    load_data,
    model,
    train_judge,
    train_model,
)
from lostjax.steps import (
    DiffusionBatch,
    ForgetBatch,
    fit,
    init_unlearning,
    make_diffusion_forget_step,
    make_forget_step,
    other_labels,
)
from lostjax.typing import Array, Key, PyTree

NOTHING, RETRAIN = "nothing", "retrain"
TUNE, ASCEND, DIFFER, RELABEL = "fine-tune", "ascend", "differ", "relabel"
SALIENT, ANY = "saliency", "random"
BATCH = 64

STILL, WRONG, DISTANCE = (
    "forgotten class still drawn, %",
    "other classes drawn wrong, %",
    "Frechet distance of other classes",
)
TUNING = "tuning: mean of both errors, %"


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """A way to forget a class."""

    world: World = dataclasses.field(default_factory=World)
    way: str = RELABEL
    """What is descended; or `NOTHING`, or `RETRAIN` for a model without the class."""
    mask: str = ""
    """`SALIENT` or `ANY`: which weights move; empty for all."""
    fraction: float = 0.5
    """Of the weights that move, if there is a mask."""
    steps: int = 200
    drawn: int = 900
    """Images of the forgotten class, and as many of the others."""


class Rows(NamedTuple):
    """Images and classes of what is forgotten and what is retained."""

    forget_BM: Array
    forget_B: Array
    retain_BM: Array
    retain_B: Array


def train(config: Unlearning, rate: float | None, seed: int) -> dict[str, float]:
    """Forget one class to tune by, and another one to measure."""
    tuned, measured = draw_classes(seed)
    scores = judge(config, forget_class(config, rate, seed, tuned), tuned, seed)
    found = {TUNING: (scores[STILL] + scores[WRONG]) / 2}
    params = forget_class(config, rate, seed, measured)
    return found | judge(config, params, measured, seed + 1)


def draw_classes(seed: int) -> tuple[int, int]:
    """Draw the class to tune by and the class to measure."""
    tuned, measured = np.random.default_rng(seed).permutation(CLASSES)[:2].tolist()
    return tuned, measured


def forget_class(
    config: Unlearning, rate: float | None, seed: int, label: int
) -> PyTree:
    """Make the model of a seed forget a class."""
    if config.way == RETRAIN:
        return train_model(config.world, seed, label)
    params = train_model(config.world, seed)
    if config.way == NOTHING:
        return params
    assert rate is not None
    rows = split_rows(config.world, label)
    key = jax.random.key(seed)
    mask = find_mask(config, params, rows, key)
    shared = dataclasses.replace(config, mask="", fraction=0.5)
    forgot: PyTree = _forget(shared)(params, mask, rows, jnp.float32(rate), key)
    return forgot


def split_rows(world: World, label: int) -> Rows:
    """Take as many images of a class, and of the others, for every class."""
    data = load_data(world.data)
    counts = np.bincount(data.train_B, minlength=CLASSES)
    n_forget = min(world.rows // CLASSES, counts.min())
    forget = np.flatnonzero(data.train_B == label)[:n_forget]
    retain = np.flatnonzero(data.train_B != label)[: n_forget * (CLASSES - 1)]
    return Rows(
        *(jnp.asarray(each[rows]) for rows in (forget, retain) for each in data[:2])
    )


def judge(
    config: Unlearning, params: PyTree, label: int, seed: int
) -> dict[str, float]:
    """Measure what a model draws."""
    classifier, data = train_judge(config.world.data), load_data(config.world.data)
    forgotten_B = jnp.full(config.drawn, label)
    others = np.delete(np.arange(CLASSES), label)
    others_B = jnp.asarray(np.resize(others, config.drawn))
    draw = draw_with(config.world)
    keys = jax.random.split(jax.random.key(1000 + seed))
    logits_BV, _ = classifier.read(draw(params, keys[0], forgotten_B))
    still = jnp.mean(jnp.argmax(logits_BV, axis=-1) == label)
    logits_BV, features_BD = classifier.read(draw(params, keys[1], others_B))
    wrong = jnp.mean(jnp.argmax(logits_BV, axis=-1) != others_B)
    _, real_BD = classifier.read(jnp.asarray(data.test_BM[data.test_B != label]))
    return {
        STILL: 100 * float(still),
        WRONG: 100 * float(wrong),
        DISTANCE: frechet_distance(np.asarray(features_BD), np.asarray(real_BD)),
    }


def frechet_distance(first_BD: np.ndarray, second_CD: np.ndarray) -> float:
    """Compute |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of two sets of features.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local
    Nash Equilibrium", 2017, arXiv:1706.08500, on features of another network.
    """
    sets = [np.asarray(each, np.float64) for each in (first_BD, second_CD)]
    if not all(np.isfinite(each).all() for each in sets):
        return float("nan")
    mean, other = (each.mean(axis=0) for each in sets)
    spread, spread_other = (np.cov(each, rowvar=False) for each in sets)
    root = scipy.linalg.sqrtm(spread @ spread_other).real
    squares = np.square(mean - other).sum()
    return float(squares + np.trace(spread + spread_other - 2 * root))


def predict_noise(
    world: World, params: PyTree, noisy: Array, time_B: Array, label_B: Array
) -> Array:
    """Predict the noise at times, numbers of `SIGNALS_N`."""
    signal_B = SIGNALS_N[time_B]
    images = jnp.asarray(model(world).apply(params, noisy, signal_B, label_B))
    return find_noise(noisy, images, signal=signal_B)


def noise_losses(
    world: World, params: PyTree, batch: tuple[Array, Array, Key]
) -> Array:
    """Compute the denoising loss of each example."""
    images, labels_B, key = batch
    at, drawn = jax.random.split(key)
    times_B = jax.random.randint(at, labels_B.shape, 0, len(SIGNALS_N))
    noise = jax.random.normal(drawn, images.shape)
    noisy = add_noise(images, noise, signal=SIGNALS_N[times_B])
    found = predict_noise(world, params, noisy, times_B, labels_B)
    return jnp.mean(jnp.square(found - noise), axis=-1)


def find_mask(config: Unlearning, params: PyTree, rows: Rows, key: Key) -> PyTree:
    """Find the weights that move."""
    if not config.mask:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    if config.mask == SALIENT:
        chunks = np.split(
            np.arange(len(rows.forget_B)), range(200, len(rows.forget_B), 200)
        )
        batches = [
            (rows.forget_BM[each], rows.forget_B[each], jax.random.fold_in(key, number))
            for number, each in enumerate(chunks)
        ]
        scores = score_saliency(_gradient(config.world), params, batches=batches)
    else:
        draw = np.random.default_rng(0).random
        scores = jax.tree.map(lambda leaf: draw(leaf.shape), params)
    return jax.tree.map(jnp.asarray, saliency_mask(scores, config.fraction))


@cache
def _gradient(world: World) -> Callable[[PyTree, Any], PyTree]:
    return jax.jit(
        jax.grad(lambda params, batch: noise_losses(world, params, batch).sum())
    )


@cache
def _forget(config: Unlearning) -> Callable[..., PyTree]:
    """Build the program that forgets a class."""
    world = config.world

    def batch_at(rows: Rows, key: Key, number: Array) -> DiffusionBatch:
        keys = jax.random.split(jax.random.fold_in(key, number), 4)
        forget, retain = (
            jax.random.randint(each, (BATCH,), 0, len(labels))
            for each, labels in zip(keys, (rows.forget_B, rows.retain_B), strict=False)
        )
        labels_B = rows.forget_B[forget]
        return DiffusionBatch(
            rows.forget_BM[forget],
            labels_B,
            other_labels(labels_B, keys[2], n_classes=CLASSES),
            rows.retain_BM[retain],
            rows.retain_B[retain],
            keys[3],
        )

    def make_batch(batch: DiffusionBatch) -> ForgetBatch:
        keys = jax.random.split(batch.key)
        return ForgetBatch(
            (batch.forget_inputs, batch.forget_labels, keys[0]),
            (batch.retain_inputs, batch.retain_labels, keys[1]),
        )

    def forget_losses(params: PyTree, batch: tuple[Array, Array, Key]) -> Array:
        if config.way == TUNE:
            return jnp.zeros(len(batch[1]))
        return -noise_losses(world, params, batch)

    def retain_losses(params: PyTree, batch: tuple[Array, Array, Key]) -> Array:
        return noise_losses(world, params, batch)

    def run(params: PyTree, mask: PyTree, rows: Rows, rate: Array, key: Key) -> PyTree:
        tx = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(rate), mask_updates(mask)
        )
        if config.way == RELABEL:
            step: Any = make_diffusion_forget_step(
                lambda *given: predict_noise(world, *given),
                tx,
                signal_N=SIGNALS_N,
                retain_weight=1.0,
            )
        else:
            forget = make_forget_step(
                forget_losses,
                tx,
                retain_losses=None if config.way == ASCEND else retain_losses,
            )
            step = lambda state, batch: forget(state, make_batch(batch))  # noqa: E731
        return fit(
            step,
            init_unlearning(params, tx),
            batch_at=lambda number: batch_at(rows, key, number),
            n_steps=config.steps,
            log_every=config.steps,
        ).state.params

    return jax.jit(run)
