"""Variational autoencoders of images, and what their latent variables hold.

One autoencoder a seed and weight beta is trained, by Adam on

    sum of the pixels' cross entropies + beta KL(q(z | x) || N(0, 1))

and read on images that it has not seen: half of them train a classifier on a
representation, the other half judge it and everything else.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import analysis, losses
from lostjax.data import (
    Samples,
    Split,
    epoch_rows,
    load_digits,
    load_fashion_mnist,
    split_samples,
)
from lostjax.nn import Posterior, VariationalAutoencoder
from lostjax.repro.problems.images import DIGITS, GARMENTS
from lostjax.steps import fit
from lostjax.typing import Array, PyTree

BATCH = 64
CLASSES = 10
RIDGE = 1e-3
"""Of the classifier, against covariances of scaled variables."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How autoencoders are trained, and which of their codes are read."""

    data: str = GARMENTS
    rows: int = 12_000
    """Images to train on."""
    judged: int = 10_000
    """Images that are read."""
    latents: int = 10
    widths: tuple[int, ...] = (8, 16)
    hidden: int = 64
    steps: int = 1500
    beta: float = 1.0
    representation: str = "mean"
    """`mean`, `sampled`, or `shuffled`: means, each variable in an order of its own."""
    variables: str = "all"
    """`all`, `not passive` or `passive`."""


class Codes(NamedTuple):
    """What an encoder makes of images that it was not trained on."""

    mean_BZ: np.ndarray
    log_variance_BZ: np.ndarray
    labels_B: np.ndarray
    reconstruction: float
    """Nats an image, from samples."""


def encode(training: Training, *, learning_rate: float, seed: int) -> Codes:
    """Train an autoencoder, once for all representations of it."""
    plain = dataclasses.replace(training, representation="mean", variables="all")
    return _encode(plain, learning_rate, seed)


def choose(codes: Codes, training: Training, *, seed: int) -> np.ndarray:
    """Choose a representation and its variables, (B, K)."""
    mean_BZ, log_BZ = codes.mean_BZ, codes.log_variance_BZ
    rng = np.random.default_rng(seed)
    noise_BZ = rng.normal(size=mean_BZ.shape)
    z_BZ = {
        "mean": mean_BZ,
        "sampled": mean_BZ + np.exp(log_BZ / 2) * noise_BZ,
        "shuffled": rng.permuted(mean_BZ, axis=0),
    }[training.representation]
    types_Z = analysis.variable_types(np.exp(log_BZ))
    passive_Z = types_Z == analysis.VariableType.PASSIVE
    chosen: np.ndarray = z_BZ[
        :,
        {
            "all": np.ones_like(passive_Z),
            "not passive": ~passive_Z,
            "passive": passive_Z,
        }[training.variables],
    ]
    return chosen


def classify(z_BK: np.ndarray, labels_B: np.ndarray) -> float:
    """Compute a ridge classifier's error on the second half of the rows, in percent."""
    if not z_BK.shape[1]:
        return 100 * (1 - 1 / CLASSES)
    half = len(z_BK) // 2
    centre_K, scale_K = z_BK[:half].mean(axis=0), z_BK[:half].std(axis=0)
    x_BK = (z_BK - centre_K) / np.where(scale_K > 0, scale_K, 1)
    target_BV = np.eye(CLASSES)[labels_B] - 1 / CLASSES
    gram_KK = x_BK[:half].T @ x_BK[:half] / half + RIDGE * np.eye(x_BK.shape[1])
    kernel_KV = np.linalg.solve(gram_KK, x_BK[:half].T @ target_BV[:half] / half)
    wrong_B = (x_BK[half:] @ kernel_KV).argmax(axis=1) != labels_B[half:]
    return 100 * float(wrong_B.mean())


@cache
def _load(data: str) -> Split:
    """Load images (B, H, W), height and width divisible by 4.

    Those of Fashion-MNIST have pixels of 2 x 2 and a rim of one: 16 x 16.
    """
    if data == DIGITS:
        return split_samples(load_digits(), train_rows=1200, seed=0)
    return Split(*map(_shrink, load_fashion_mnist()))


def _shrink(samples: Samples) -> Samples:
    images = np.asarray(samples.inputs)
    halved = images.reshape(len(images), 14, 2, 14, 2).mean((2, 4))
    padded = np.pad(halved, [(0, 0), (1, 1), (1, 1)])
    return dataclasses.replace(samples, inputs=padded)


@cache
def _encode(training: Training, rate: float, seed: int) -> Codes:
    train, test = _load(training.data)
    images = np.asarray(train.inputs)
    chosen = np.random.default_rng(seed).permutation(len(images))[: training.rows]
    x_BHWC = jnp.asarray(images[chosen])[..., None]
    params, loss = _run(training, x_BHWC, rate, jax.random.key(seed))
    model = _model(training, x_BHWC.shape[1:])
    judged = np.random.default_rng(seed).permutation(len(test.inputs))
    judged = judged[: training.judged]
    y_BHWC = jnp.asarray(np.asarray(test.inputs)[judged])[..., None]
    encoded: Posterior = jax.jit(lambda x: model.apply(params, x, method="encode"))(
        y_BHWC
    )
    return Codes(
        np.asarray(encoded.mean_BZ, np.float64),
        np.asarray(encoded.log_variance_BZ, np.float64),
        np.asarray(test.labels)[judged],
        float(loss),
    )


def _model(training: Training, shape: tuple[int, ...]) -> VariationalAutoencoder:
    height, width, channels = shape
    return VariationalAutoencoder(
        (height, width, channels), training.latents, training.widths, training.hidden
    )


def _run(
    training: Training, x_BHWC: Array, rate: float, key: Array
) -> tuple[PyTree, Array]:
    """Return variables, and the reconstruction error of the last 100 steps."""
    n_rows = x_BHWC.shape[0]
    run = _compile(_model(training, x_BHWC.shape[1:]), training.steps, n_rows)
    return run(x_BHWC, training.beta, rate, key)


@cache
def _compile(
    model: VariationalAutoencoder, n_steps: int, n_rows: int
) -> Callable[..., tuple[PyTree, Array]]:
    """Build one program for every beta, rate and key, which it takes."""
    n_epochs = -(-n_steps // (n_rows // BATCH))

    def run(
        x_BHWC: Array, beta: Array, rate: Array, key: Array
    ) -> tuple[PyTree, Array]:
        keys = jax.random.split(key, 3)
        tx = optax.adam(rate)
        variables = model.init({"params": keys[0], "latents": keys[0]}, x_BHWC[:1])
        rows_SB = epoch_rows(
            keys[1], n_rows=n_rows, batch_size=BATCH, n_epochs=n_epochs
        )

        def loss(params: PyTree, x: Array, noise: Array) -> tuple[Array, Array]:
            logits, posterior = model.apply(params, x, rngs={"latents": noise})
            errors_B = optax.sigmoid_binary_cross_entropy(logits, x).sum((1, 2, 3))
            divergence_B = losses.standard_normal_divergence(*posterior)
            return jnp.mean(errors_B + beta * divergence_B), jnp.mean(errors_B)

        def step(
            state: tuple[PyTree, PyTree], batch: tuple[Array, Array]
        ) -> tuple[tuple[PyTree, PyTree], Array]:
            params, memory = state
            gradient, errors = jax.grad(loss, has_aux=True)(params, *batch)
            updates, memory = tx.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), errors

        def batch_at(number: Array) -> tuple[Array, Array]:
            return x_BHWC[rows_SB[number]], jax.random.fold_in(keys[2], number)

        start = variables, tx.init(variables)
        fitted = fit(step, start, batch_at=batch_at, n_steps=n_steps)
        return fitted.state[0], fitted.metrics[-100:].mean()

    return jax.jit(run)
