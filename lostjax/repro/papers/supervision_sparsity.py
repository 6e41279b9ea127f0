"""Essential sparsity of features that were learnt without labels, and with them.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805: self-supervised training
leads to more weights near zero than supervised training (14 % more for DINO than for
DeiT), and to models that lose more weights before their tasks suffer. Theirs are vision
transformers; here one small convolutional network learns Fashion-MNIST, by pairs of
views (`losses.info_nce_loss`, `repro.problems.two_views`) or by labels, from the same
views in the same number of steps.

    self-supervised    views; the smallest weights are removed
    supervised         labels; the smallest weights are removed
    ..., random        controls: as many weights at random

Every mask is judged by a linear probe on the features: ridge regression on the labels
of the images that were trained on, with nothing trained in between. Settled before
anything was measured: sizes, the temperature .3, sparsities, one point of error as what
may be lost (the paper's epsilon), and a tenth of the root mean square of all kernels as
what is near zero. The rate of Adam is tuned for each by the whole model's probe on
other images. A seed is a draw of images, views and initialisation, the same for all.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import analysis
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.problems.two_views import (
    CLASSES,
    VIEWS,
    Encoder,
    Seed,
    Training,
    compute_loss,
    draw,
    draw_pairs,
    probe,
)
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED
from lostjax.steps import fit
from lostjax.typing import Array, PyTree

VALID, ERROR = "validation: probe error, %", "probe error, %"
NEEDED = "weights needed, %"
RISE = "more errors without 60 %, points"
LARGE = "weights not near zero, %"

SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALLOWED, NEAR_ZERO = 0.01, 0.1
VIEWED, LABELLED = "self-supervised", "supervised"


@dataclasses.dataclass(frozen=True)
class Probed:
    """How features are learnt, and which weights are removed."""

    learns: str = VIEWED
    mask: str = "smallest"
    training: Training = Training(
        rows=2000,
        validation_rows=500,
        test_rows=1500,
        steps=200,
        batch=64,
        temperature=0.3,
    )


def measure(config: Probed, rate: float | None, seed: int) -> dict[str, float]:
    """Train a seed's encoder, prune it at every sparsity, and probe its features."""
    params = _train(config.learns, config.training, rate or 0.0, seed)
    drawn = draw(_data_of(config.training), seed)
    valid, tests = np.nan, []
    for sparsity in SPARSITIES:
        mask = _make_mask(config.mask, params, sparsity, seed=seed)
        pruned = analysis.apply_mask(params, mask)
        found = _probe(config.training)(pruned, drawn)
        tests.append(float(found[1]))
        valid = float(found[0]) if not sparsity else valid
    end = analysis.essential_sparsity(
        SPARSITIES, [1 - error for error in tests], tolerance=ALLOWED
    )
    kernels = np.concatenate([np.ravel(each) for each in _list_kernels(params)])
    size = float(np.sqrt(np.mean(kernels**2)))
    near = analysis.near_zero_count(
        params, tolerance=NEAR_ZERO * size, matrices=_is_kernel(params)
    )
    return {
        VALID: 100 * valid,
        ERROR: 100 * tests[0],
        NEEDED: 100 * (1 - end.sparsity),
        RISE: 100 * (tests[SPARSITIES.index(0.6)] - tests[0]),
        LARGE: 100 * (1 - near.near / near.total),
    }


@lru_cache(maxsize=64)
def _train(learns: str, training: Training, rate: float, seed: int) -> PyTree:
    return _build(learns, training)(draw(_data_of(training), seed), rate)


@cache
def _build(learns: str, training: Training) -> Callable[..., PyTree]:
    """Compile training of (seed, learning rate)."""
    outputs = training.features if learns == VIEWED else CLASSES
    model = Encoder(training.widths, outputs)

    def viewed(params: PyTree, views_2BHW1: Array) -> Array:
        both_BD = model.apply(params, jnp.concatenate(list(views_2BHW1)))[1]
        x_BD, y_BD = jnp.split(jnp.asarray(both_BD), 2)
        loss = partial(compute_loss, training, temperature=training.temperature)
        return jnp.mean(jnp.stack([loss(x_BD, y_BD), loss(y_BD, x_BD)]))

    def labelled(params: PyTree, batch: tuple[Array, Array]) -> Array:
        views_BHW1, labels_B = batch
        # The head's outputs have norm 1, as those of views; 10 makes them logits.
        logits_BV = 10 * jnp.asarray(model.apply(params, views_BHW1)[1])
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits_BV, labels_B)
        )

    loss: Callable[..., Array] = viewed if learns == VIEWED else labelled

    @jax.jit
    def run(seed: Seed, rate: float) -> PyTree:
        tx = optax.adam(optax.cosine_decay_schedule(rate, training.steps))
        init_key, batch_key = jax.random.split(seed.key)
        params = model.init(init_key, seed.train.images_BHW1[:1])
        if learns == VIEWED:
            batch_at: Callable[..., Any] = partial(
                draw_pairs, training, seed.views_BVHW, batch_key
            )
        else:
            batch_at = partial(_draw_labelled, training, seed, batch_key)

        def step(state: tuple[PyTree, PyTree], batch: Any) -> Any:
            params, opt_state = state
            moves, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state)
            return (optax.apply_updates(params, moves), opt_state), ()

        return fit(
            step,
            (params, tx.init(params)),
            batch_at=batch_at,
            n_steps=training.steps,
            log_every=training.steps,
        ).state[0]

    return run


def _draw_labelled(
    training: Training, seed: Seed, key: Array, number: Array
) -> tuple[Array, Array]:
    """Draw two views of as many images as a batch of pairs has, and their labels."""
    keys = jax.random.split(jax.random.fold_in(key, number), 2)
    rows_B = jax.random.choice(
        keys[0], len(seed.views_BVHW), (training.batch,), replace=False
    )
    rows_B = jnp.concatenate([rows_B, rows_B])
    view_B = jax.random.randint(keys[1], rows_B.shape, 0, VIEWS)
    labels_B = jnp.asarray(seed.train.labels_B)[rows_B]
    return seed.views_BVHW[rows_B, view_B][..., None], labels_B


@cache
def _probe(training: Training) -> Callable[..., tuple[Array, Array]]:
    """Compile the errors of a probe of an encoder's features."""
    model = Encoder(training.widths, 1)

    @jax.jit
    def errors(params: PyTree, seed: Seed) -> tuple[Array, Array]:
        # Only features are read: one column of the head will do.
        head = jax.tree.map(lambda leaf: leaf[..., :1], params["params"]["head"])
        one = {"params": {**params["params"], "head": head}}
        parts = seed.train, seed.valid, seed.test
        features = [
            jnp.asarray(model.apply(one, part.images_BHW1)[0]) for part in parts
        ]
        return probe(features, [jnp.asarray(part.labels_B) for part in parts])

    return errors


def _is_kernel(params: PyTree) -> PyTree:
    """Mark the convolutions' kernels, which the features are made with."""
    return jax.tree.map_with_path(
        lambda path, leaf: getattr(path[1], "key", "") == "body" and np.ndim(leaf) > 1,
        params,
    )


def _list_kernels(params: PyTree) -> list[Any]:
    marks = jax.tree.leaves(_is_kernel(params))
    return [x for x, mark in zip(jax.tree.leaves(params), marks, strict=True) if mark]


def _make_mask(kind: str, params: PyTree, sparsity: float, *, seed: int) -> PyTree:
    chosen = _is_kernel(params)
    if kind == "smallest":
        return analysis.magnitude_mask(params, sparsity, matrices=chosen)
    key = jax.random.key(seed)
    return analysis.random_mask(params, sparsity, key=key, matrices=chosen)


def _data_of(training: Training) -> Training:
    """Leave what data are drawn by, so that rows share them."""
    return Training(
        training.data, training.rows, training.validation_rows, training.test_rows
    )


def build_methods(scale: Scale[Probed]) -> dict[str, Probed]:
    """Build a row for each way to learn and to prune."""
    make = partial(dataclasses.replace, scale.config)
    return {
        VIEWED: make(learns=VIEWED),
        LABELLED: make(learns=LABELLED),
        f"{VIEWED}, random": make(learns=VIEWED, mask="random"),
        f"{LABELLED}, random": make(learns=LABELLED, mask="random"),
    }


COMPARISONS = (
    *(
        Comparison(VIEWED, LABELLED, f"without labels {words}", measure)
        for words, measure in (
            ("more weights can be removed", NEEDED),
            ("less is lost without 60 % of the weights", RISE),
            ("more weights are near zero", LARGE),
        )
    ),
    *(
        Comparison(learns, f"{learns}, random", f"{learns}: {words}", measure)
        for learns in (VIEWED, LABELLED)
        for words, measure in (
            ("more weights can be removed by size than at random", NEEDED),
            ("60 % of the weights are better removed by size than at random", RISE),
        )
    ),
    *(
        Comparison(learns, 80.0, f"{learns}: a fifth of the weights can go", NEEDED)
        for learns in (VIEWED, LABELLED)
    ),
)


def describe(scale: Scale[Probed]) -> str:
    """Describe the setting."""
    training = scale.config.training
    widths = ", ".join(map(str, training.widths))
    return (
        f"Every run: a network of convolutions with {widths} channels, "
        f"{training.steps} steps of Adam with a cosine schedule on "
        f"{2 * training.batch} views of {training.rows:,} images of {training.data}. "
        "The kernels of the "
        f"convolutions are pruned at {len(SPARSITIES) - 1} shares, ranked together. "
        f"Errors are a linear probe's on {training.test_rows:,} test images; weights "
        "needed are those left where they have risen by one point. Near zero: below "
        f"{NEAR_ZERO:g} of the kernels' root mean square."
    )


RATES = (1e-3, 2e-3, 4e-3)

EXPERIMENT = Experiment(
    paper="The Emergence of Essential Sparsity (arXiv:2306.03805): self-supervision",
    scales={
        "smoke": Scale(
            Probed(
                training=Training(
                    DIGITS, 600, 300, 300, 20, 32, widths=(8, 16), temperature=0.3
                )
            ),
            RATES,
            methods=(VIEWED, LABELLED),
        ),
        "small": Scale(Probed(), RATES),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(VALID, NEEDED, RISE, LARGE, ERROR),
    setting=describe,
    train=each_seed(measure),
    tuning=TUNE_ON_FIRST_SEED,
    interval=PAIRED,
)
