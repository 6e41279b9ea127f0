"""Ways to forget, and how far each is from training without the forgotten."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.data import epoch_rows
from lostjax.optim import mask_updates, saliency_mask, score_saliency
from lostjax.repro.papers.salun.worlds import (
    CLASSES,
    DECAY,
    KINDS,
    MEASURED,
    MOMENTUM,
    Case,
    World,
    build_cases,
    example_losses,
    network,
)
from lostjax.repro.problems.images import load_rows
from lostjax.steps import (
    ForgetBatch,
    fit,
    init_unlearning,
    make_forget_step,
    random_labels,
    soft_threshold,
)
from lostjax.typing import Array, Key, PyTree

NOTHING, ANEW = "nothing", "retrained anew"
TUNE, ASCEND, DIFFER, RELABEL = "fine-tune", "ascend", "differ", "relabel"
SALIENT, ANY = "saliency", "random"
FORGET_BATCH, RETAIN_BATCH = 20, 180
"""Rows of a step; their ratio is that of the sets, and so is the losses' weight."""

SCORES = ("forget error, %", "retain error, %", "test error, %", "membership, %")
GAP, TUNING = "gap, %", "tuning: gap, %"


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """A way to forget."""

    world: World = dataclasses.field(default_factory=World)
    way: str = RELABEL
    """What is descended; or `NOTHING`, or `ANEW` for another retrained classifier."""
    mask: str = ""
    """`SALIENT` or `ANY`: which weights move; empty for all."""
    fraction: float = 0.5
    """Of the weights that move, if there is a mask."""
    soft: float = 0.0
    """Share of the weights that soft thresholding returns at first; falls to 0."""
    epochs: int = 10


def name(kind: str, measure: str) -> str:
    """Name a measure of a kind of forgetting."""
    return f"{kind}: {measure}"


def train_seeds(
    config: Unlearning, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Forget every case of some seeds, and measure it."""
    cases = build_cases(config.world, tuple(seeds))
    if config.way == NOTHING:
        params = cases.params
    elif config.way == ANEW:
        params = cases.anew
    else:
        assert learning_rate is not None
        shared = dataclasses.replace(config, mask="", fraction=0.5)
        masks = _find_masks(config, tuple(seeds))
        params = _forget(shared)(cases, masks, jnp.float32(learning_rate))
    scores_CN = score(config.world, cases, params)
    wanted_CN = score(config.world, cases, cases.retrained)
    shape = (len(seeds), len(KINDS), 2)
    gaps_SK2 = np.abs(scores_CN - wanted_CN).mean(axis=-1).reshape(shape)
    scores_SK2N = scores_CN.reshape(*shape, len(SCORES))
    found: dict[str, list[float]] = {}
    for place, kind in enumerate(KINDS):
        gaps_S2 = gaps_SK2[:, place]
        found[name(kind, TUNING)] = gaps_S2[:, 1 - MEASURED].tolist()
        found[name(kind, GAP)] = gaps_S2[:, MEASURED].tolist()
        for column, measure in enumerate(SCORES):
            values = scores_SK2N[:, place, MEASURED, column]
            found[name(kind, measure)] = values.tolist()
    return found


def score(world: World, cases: Case, params: PyTree) -> np.ndarray:
    """Compute the scores of every case, (C, 4), in percent."""
    test = load_rows(world.data).heldout
    rows = slice(world.test_rows)
    errors_C3, confidence = _judge(world)(
        cases, params, test.inputs[rows], test.labels[rows]
    )
    found = [
        100 * attack(retain, outside, forgotten)
        for retain, outside, forgotten in zip(*map(np.asarray, confidence), strict=True)
    ]
    return np.column_stack([100 * np.asarray(errors_C3), found])


def attack(retain_R: np.ndarray, test_T: np.ndarray, forget_F: np.ndarray) -> float:
    """Tell members from others by the confidence in their class.

    Returns:
      Share of the forgotten that are taken for others, by the threshold that tells
      retained from test rows best, both counting alike.
    """
    values = np.concatenate([retain_R, test_T])
    order = np.argsort(values, kind="stable")
    members = np.concatenate(
        [
            np.full(len(retain_R), 1 / len(retain_R)),
            np.full(len(test_T), -1 / len(test_T)),
        ]
    )[order]
    # What lies above a threshold is a member: the sum of members less others there.
    above = np.append(np.cumsum(members[::-1])[::-1], 0.0)
    # A threshold between equal values tells nothing: only before the first of each.
    values = values[order]
    first = np.append(np.r_[True, np.diff(values) > 0], True)
    best = int(np.argmax(np.where(first, above, -np.inf)))
    threshold = values[best] if best < len(values) else np.inf
    return float(np.mean(forget_F < threshold))


@cache
def _judge(world: World) -> Callable[..., Any]:
    """Compute errors on forgotten, retained and test rows, and confidences."""

    def judge(
        case: Case, params: PyTree, test_BM: Array, test_B: Array
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        def read(inputs_BM: Array, labels_B: Array) -> tuple[Array, Array]:
            logits_BV = jnp.asarray(network(world).apply(params, inputs_BM))
            wrong = jnp.mean(jnp.argmax(logits_BV, axis=-1) != labels_B)
            p_BV = jax.nn.softmax(logits_BV)
            own_B = jnp.take_along_axis(p_BV, labels_B[:, None], axis=-1)[:, 0]
            return wrong, own_B

        def read_rows(rows: Array) -> tuple[Array, Array]:
            return read(case.inputs_BM[rows], case.labels_B[rows])

        forgot, forget_F = read_rows(case.forget_F)
        kept, retain_R = read_rows(case.retain_R)
        tested, test_T = read(test_BM, test_B)
        return jnp.stack([forgot, kept, tested]), (retain_R, test_T, forget_F)

    return jax.jit(jax.vmap(judge, in_axes=(0, 0, None, None)))


@cache
def _find_masks(config: Unlearning, seeds: tuple[int, ...]) -> PyTree:
    """Find the weights that move, of every case."""
    cases = build_cases(config.world, seeds)
    n_cases = len(cases.forget_F)
    masks = []
    for number in range(n_cases):
        params = jax.tree.map(lambda leaf, at=number: leaf[at], cases.params)
        if not config.mask:
            masks.append(jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params))
            continue
        if config.mask == SALIENT:
            rows = cases.forget_F[number]
            batch = cases.inputs_BM[number][rows], cases.labels_B[number][rows]
            scores = score_saliency(_gradient(config.world), params, batches=[batch])
        else:
            draw = np.random.default_rng(number).random
            scores = jax.tree.map(lambda leaf, draw=draw: draw(leaf.shape), params)
        masks.append(saliency_mask(scores, config.fraction))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)


@cache
def _gradient(world: World) -> Callable[[PyTree, Any], PyTree]:
    return jax.jit(
        jax.grad(lambda params, batch: example_losses(world, params, batch).sum())
    )


@cache
def _forget(config: Unlearning) -> Callable[[Case, PyTree, Array], PyTree]:
    """Build the program that forgets every case."""
    world = config.world
    ratio = RETAIN_BATCH / FORGET_BATCH

    def forget_losses(params: PyTree, batch: tuple[Array, Array]) -> Array:
        if config.way == TUNE:
            return jnp.zeros(len(batch[1]))
        values_B = example_losses(world, params, batch)
        return values_B if config.way == RELABEL else -values_B

    def run(case: Case, mask: PyTree, rate: Array) -> PyTree:
        keys = jax.random.split(jax.random.fold_in(case.key, 2), 3)
        forget_SB = _draw_order(keys[0], case.forget_F, FORGET_BATCH, config.epochs)
        retain_SB = _draw_order(keys[1], case.retain_R, RETAIN_BATCH, config.epochs)
        n_steps = len(forget_SB)
        tx = optax.chain(
            optax.add_decayed_weights(DECAY),
            optax.sgd(rate, momentum=MOMENTUM),
            mask_updates(mask),
        )

        def settle(params: PyTree, start: PyTree, number: Array) -> PyTree:
            share = config.soft * (1 - (number + 1) / n_steps)
            return soft_threshold(params, start, share=share)

        step = make_forget_step(
            forget_losses,
            tx,
            retain_losses=None
            if config.way == ASCEND
            else partial(example_losses, world),
            retain_weight=ratio,
            settle=settle if config.soft else None,
        )

        def batch_at(number: Array) -> ForgetBatch:
            rows_B, kept_B = forget_SB[number], retain_SB[number]
            labels_B = case.labels_B[rows_B]
            if config.way == RELABEL:
                key = jax.random.fold_in(keys[2], number)
                labels_B = random_labels(labels_B, key, n_classes=CLASSES)
            return ForgetBatch(
                (case.inputs_BM[rows_B], labels_B),
                (case.inputs_BM[kept_B], case.labels_B[kept_B]),
            )

        start = case.params if config.soft else None
        state = init_unlearning(case.params, tx, start=start)
        return fit(
            step, state, batch_at=batch_at, n_steps=n_steps, log_every=n_steps
        ).state.params

    return jax.jit(jax.vmap(run, in_axes=(0, 0, None)))


def _draw_order(key: Key, rows: Array, batch: int, epochs: int) -> Array:
    order_SB = epoch_rows(key, n_rows=len(rows), batch_size=batch, n_epochs=epochs)
    return rows[order_SB]
