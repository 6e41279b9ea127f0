"""A convolutional encoder that is trained by pairs of views, and what measures it.

A view of an image: a rectangle of half to all of each side, stretched to the image's
size, perhaps mirrored, .6 to 1.4 times as bright, with a square of a third of the
side erased. Each image has `VIEWS` views, drawn once; a pair is two of them.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses, metrics
from lostjax.nn import ConvNet
from lostjax.repro.problems.images import GARMENTS, load_rows
from lostjax.steps import fit
from lostjax.typing import Array, Float, Int, Key, PyTree

VIEWS, CLASSES = 8, 10
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the probe's ridge, as shares of the features' variance."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, and its loss."""

    data: str = GARMENTS
    rows: int = 4000
    validation_rows: int = 1000
    test_rows: int = 2000
    steps: int = 400
    """0 for an encoder as it is drawn."""
    batch: int = 128
    widths: tuple[int, ...] = (16, 32, 64)
    features: int = 32
    """Of the representation, whose rows are normalised."""
    temperature: float = 0.0
    """0 for the simple loss, whose negatives weigh 1 together."""
    hard_share: float = 1.0
    shuffled: bool = False
    """Positives are views of other images."""

    def without_temperature(self) -> "Training":
        """Leave out what may be traced."""
        return dataclasses.replace(self, temperature=float(self.temperature > 0))


class Part(NamedTuple):
    """Images and their classes."""

    # Any: NumPy arrays where they are drawn, JAX arrays in a run.
    images_BHW1: Any
    labels_B: Any


class Seed(NamedTuple):
    """Data of a seed: what is trained on, tuned by, and tested on."""

    views_BVHW: Array
    train: Part
    valid: Part
    test: Part
    key: Key


class Scores(NamedTuple):
    """What an encoder comes to."""

    valid_error: Array
    """Of a probe of the features, in [0, 1]."""
    error: Array
    sphere_error: Array
    """Of a probe of the representation."""
    uniformity: Array
    tolerance: Array


class Encoder(nn.Module):
    """A convolutional network, and a linear head on its features."""

    widths: tuple[int, ...]
    n_outputs: int

    @nn.compact
    def __call__(self, x_BHW1: Array) -> tuple[Array, Array]:
        """Map images to features (B, N) and representations (B, D) of norm 1."""
        features_BN = ConvNet(self.widths, name="body")(x_BHW1)
        outputs_BD = nn.Dense(self.n_outputs, name="head")(features_BN)
        norm_B1 = jnp.linalg.norm(outputs_BD, axis=-1, keepdims=True)
        return features_BN, outputs_BD / jnp.maximum(norm_B1, 1e-6)


@cache
def draw(training: Training, number: int) -> Seed:
    """Draw a seed's images, the views of those that are trained on, and a key.

    Args:
      training: its data and sizes alone are read.
      number: of the seed.
    """
    split = load_rows(training.data)
    generator = np.random.default_rng(number)
    order = generator.permutation(len(split.train.labels))
    rows, valid = np.split(order, [training.rows])
    test = generator.permutation(len(split.heldout.labels))[: training.test_rows]
    pixels = split.train.inputs[rows]
    mean, deviation = pixels.mean(), pixels.std()

    def take(samples: Any, rows: np.ndarray) -> Part:
        pixels_BM = (samples.inputs[rows] - mean) / deviation
        side = round(pixels_BM.shape[1] ** 0.5)
        images = pixels_BM.reshape(-1, side, side, 1).astype(np.float32)
        return Part(images, samples.labels[rows])

    view_key, key = jax.random.split(jax.random.key(number))
    train = take(split.train, rows)
    # Views are drawn of pixels in [0, 1], so that what is erased or outside is black.
    images_BHW = jnp.asarray(train.images_BHW1[..., 0] * deviation + mean)
    views_BVHW = (_draw_views(images_BHW, view_key) - mean) / deviation
    return Seed(
        views_BVHW,
        train,
        take(split.train, valid[: training.validation_rows]),
        take(split.heldout, test),
        key,
    )


@jax.jit
def _draw_views(images_BHW: Array, key: Key) -> Array:
    def of_image(pair: tuple[Array, Key]) -> Array:
        image_HW, key = pair
        return jax.vmap(draw_view, (None, 0))(image_HW, jax.random.split(key, VIEWS))

    keys = jax.random.split(key, len(images_BHW))
    return jnp.asarray(jax.lax.map(of_image, (images_BHW, keys), batch_size=100))


def draw_view(image_HW: Float[Array, "H W"], key: Key) -> Float[Array, "H W"]:
    """Draw a view of an image of pixels in [0, 1]."""
    keys = jax.random.split(key, 5)
    side = jnp.asarray(image_HW.shape)
    scale = 1 / jax.random.uniform(keys[0], (2,), minval=0.5, maxval=1.0)
    start = jax.random.uniform(keys[1], (2,)) * side * (1 - 1 / scale)
    view_HW = jax.image.scale_and_translate(
        image_HW, image_HW.shape, (0, 1), scale, -start * scale, "linear"
    )
    view_HW = jnp.where(jax.random.bernoulli(keys[2]), view_HW[:, ::-1], view_HW)
    view_HW *= jax.random.uniform(keys[3], minval=0.6, maxval=1.4)
    corner = jnp.floor(jax.random.uniform(keys[4], (2,)) * side * 2 / 3)
    row, column = jnp.indices(image_HW.shape)
    third = image_HW.shape[0] // 3
    erased = (row >= corner[0]) & (row < corner[0] + third)
    erased &= (column >= corner[1]) & (column < corner[1] + third)
    return jnp.where(erased, 0.0, view_HW)


@cache
def build_run(training: Training) -> Callable[..., Scores]:
    """Compile a run of (seed, learning rate, temperature)."""
    return jax.jit(partial(_run, training))


def _run(
    training: Training, seed: Seed, rate: Array | float, temperature: Array | float
) -> Scores:
    model = Encoder(training.widths, training.features)
    init_key, batch_key = jax.random.split(seed.key)
    params = model.init(init_key, seed.train.images_BHW1[:1])
    if training.steps:
        tx = optax.adam(optax.cosine_decay_schedule(rate, training.steps))

        def loss(params: PyTree, views_2BHW1: Array) -> Array:
            both_BD = _encode(model, params, jnp.concatenate(list(views_2BHW1)))[1]
            x_BD, y_BD = jnp.split(both_BD, 2)
            values_2B = [
                compute_loss(training, one, other, temperature=temperature)
                for one, other in ((x_BD, y_BD), (y_BD, x_BD))
            ]
            return jnp.mean(jnp.stack(values_2B))

        def step(
            state: tuple[PyTree, PyTree], views_2BHW1: Array
        ) -> tuple[tuple[PyTree, PyTree], tuple[()]]:
            params, opt_state = state
            slopes = jax.grad(loss)(params, views_2BHW1)
            moves, opt_state = tx.update(slopes, opt_state)
            return (optax.apply_updates(params, moves), opt_state), ()

        params, _ = fit(
            step,
            (params, tx.init(params)),
            batch_at=partial(draw_pairs, training, seed.views_BVHW, batch_key),
            n_steps=training.steps,
            log_every=training.steps,
        ).state
    return judge(model, params, seed)


def _encode(model: Encoder, params: PyTree, x_BHW1: Any) -> tuple[Array, Array]:
    features_BN, sphere_BD = model.apply(params, x_BHW1)
    return jnp.asarray(features_BN), jnp.asarray(sphere_BD)


def draw_pairs(
    training: Training, views_BVHW: Array, key: Key, number: Array
) -> Float[Array, "2 B H W 1"]:
    """Draw a batch's images without replacement, and two views of each."""
    keys = jax.random.split(jax.random.fold_in(key, number), 4)
    rows_B = jax.random.choice(
        keys[0], len(views_BVHW), (training.batch,), replace=False
    )
    first_B = jax.random.randint(keys[1], rows_B.shape, 0, VIEWS)
    ahead_B = jax.random.randint(keys[2], rows_B.shape, 1, VIEWS)
    second_B = (first_B + ahead_B) % VIEWS
    others_B = jax.random.permutation(keys[3], rows_B) if training.shuffled else rows_B
    pair = views_BVHW[rows_B, first_B], views_BVHW[others_B, second_B]
    return jnp.stack(pair)[..., None]


def compute_loss(
    training: Training, x_BD: Array, y_BD: Array, *, temperature: Array | float
) -> Array:
    """Compute the loss of each anchor; the simple one if the temperature is 0."""
    share = training.hard_share
    if training.temperature:
        # Times t, which Adam does not see but for its epsilon: the loss' gradient is
        # of the size 1 / t.
        return temperature * losses.info_nce_loss(
            x_BD, y_BD, temperature=temperature, hard_share=share
        )
    n_kept = max(1, round(share * (len(x_BD) - 1)))
    return losses.simple_contrastive_loss(
        x_BD, y_BD, weight=1 / n_kept, hard_share=share
    )


def judge(model: Encoder, params: PyTree, seed: Seed) -> Scores:
    """Measure an encoder on images of its own, not of their views."""
    parts = seed.train, seed.valid, seed.test
    encoded = [_encode(model, params, part.images_BHW1) for part in parts]
    labels = [jnp.asarray(part.labels_B) for part in parts]
    errors = [probe([both[place] for both in encoded], labels) for place in range(2)]
    sphere_BD = encoded[2][1]
    return Scores(
        *errors[0],
        errors[1][1],
        metrics.uniformity(sphere_BD),
        metrics.tolerance(sphere_BD, labels[2]),
    )


def probe(
    features: list[Float[Array, "_ N"]], labels: list[Int[Array, "_"]]
) -> tuple[Array, Array]:
    """Compute the errors of a linear classifier: ridge regression of one-hot classes.

    Args:
      features: of training, validation and test; the second choose the ridge.
      labels: of the same.

    Returns:
      Shares of errors in validation and in test.
    """
    mean_N, deviation_N = features[0].mean(0), features[0].std(0) + 1e-6
    x, valid, test = (
        jnp.pad((each - mean_N) / deviation_N, ((0, 0), (0, 1)), constant_values=1.0)
        for each in features
    )
    gram_NN = x.T @ x / len(x)
    cross_NV = x.T @ jax.nn.one_hot(labels[0], CLASSES) / len(x)

    def score(strength: Array) -> tuple[Array, Array]:
        weights_NV = jnp.linalg.solve(
            gram_NN + strength * jnp.eye(len(gram_NN)), cross_NV
        )
        wrong = [
            metrics.error_rate(rows @ weights_NV, of)
            for rows, of in ((valid, labels[1]), (test, labels[2]))
        ]
        return wrong[0], wrong[1]

    valid_S, test_S = jax.vmap(score)(jnp.asarray(STRENGTHS))
    best = jnp.argmin(valid_S)
    return valid_S[best], test_S[best]
