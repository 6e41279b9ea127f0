"""Diffusion models of garments, and the classifier that judges what they draw."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import load_digits, load_fashion_mnist, split_samples
from lostjax.nn import MLP, Denoiser, add_noise, cosine_signals, draw_images
from lostjax.repro.problems.images import DIGITS, GARMENTS
from lostjax.steps import fit
from lostjax.typing import Array, Key, PyTree

CLASSES, BATCH, RATE = 10, 128, 1e-3
SIGNALS_N = cosine_signals(25)
"""Of sampling, and of the times that a model is asked at while it forgets."""
FEATURES = (256, 64)
"""Units of the classifier; the last are what Frechet distances are of."""


@dataclasses.dataclass(frozen=True)
class World:
    """Size of the models and of their data."""

    data: str = GARMENTS
    """28 x 28 pixels; or digits of 8 x 8, for the smoke scale."""
    rows: int = 10_000
    width: int = 384
    steps: int = 2000


class Data(NamedTuple):
    """Images (..., M) in [-1, 1] and their classes."""

    train_BM: np.ndarray
    train_B: np.ndarray
    test_BM: np.ndarray
    test_B: np.ndarray


class Judge(NamedTuple):
    """A classifier, from images to logits and features."""

    read: Callable[[Array], tuple[Array, Array]]
    error: float
    """On real test images, %."""


@cache
def load_data(data: str) -> Data:
    """Load images."""
    if data == DIGITS:
        split = split_samples(load_digits(), train_rows=1200, seed=0)
    else:
        split = load_fashion_mnist()
    flat = [
        2 * np.asarray(part.inputs, np.float32).reshape(len(part.labels), -1) - 1
        for part in split
    ]
    return Data(flat[0], split.train.labels, flat[1], split.heldout.labels)


def model(world: World) -> Denoiser:
    """Build the diffusion model."""
    return Denoiser(CLASSES, width=world.width)


@cache
def train_model(world: World, seed: int, without: int | None = None) -> PyTree:
    """Train a diffusion model on all classes, or on all but one."""
    data = load_data(world.data)
    rows = np.random.default_rng(seed).permutation(len(data.train_B))[: world.rows]
    if without is not None:
        rows = rows[data.train_B[rows] != without]
    # A fixed number, so that models with and without a class share a program.
    numbers = np.resize(rows, world.rows)
    images_BM = jnp.asarray(data.train_BM[numbers])
    labels_B = jnp.asarray(data.train_B[numbers])
    params: PyTree = _train(world)(
        images_BM, labels_B, jnp.int32(len(rows)), jax.random.key(seed)
    )
    return params


@cache
def _train(world: World) -> Callable[..., PyTree]:
    """Build the program that trains."""
    net, tx = model(world), optax.adam(optax.cosine_decay_schedule(RATE, world.steps))

    def draw(images_BM: Array, labels_B: Array, count: Array, key: Key) -> Any:
        keys = jax.random.split(key, 3)
        rows = jax.random.randint(keys[0], (BATCH,), 0, count)
        angles = jax.random.uniform(keys[1], (BATCH,), maxval=jnp.pi / 2)
        noise = jax.random.normal(keys[2], (BATCH, images_BM.shape[-1]))
        return images_BM[rows], labels_B[rows], jnp.square(jnp.cos(angles)), noise

    def train(images_BM: Array, labels_B: Array, count: Array, key: Key) -> PyTree:
        start, order = jax.random.split(key)

        def loss(params: PyTree, batch: Any) -> Array:
            image, label, signal, noise = batch
            noisy = add_noise(image, noise, signal=signal)
            found = jnp.asarray(net.apply(params, noisy, signal, label))
            return jnp.mean(jnp.square(found - image))

        def step(state: PyTree, batch: Any) -> tuple[PyTree, tuple[()]]:
            params, opt_state = state
            moves, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state)
            return (optax.apply_updates(params, moves), opt_state), ()

        params = net.init(start, images_BM[:1], jnp.zeros(1), labels_B[:1])
        return fit(
            step,
            (params, tx.init(params)),
            batch_at=lambda number: draw(
                images_BM, labels_B, count, jax.random.fold_in(order, number)
            ),
            n_steps=world.steps,
            log_every=world.steps,
        ).state[0]

    return jax.jit(train)


@cache
def draw_with(world: World) -> Callable[[PyTree, Key, Array], Array]:
    """Build the program that draws images of given classes."""
    net = model(world)

    def draw(params: PyTree, key: Key, labels_B: Array) -> Array:
        def denoise(noisy: Array, signal: Array, label: Array) -> Array:
            return jnp.asarray(net.apply(params, noisy, signal, label))

        size = load_data(world.data).train_BM.shape[-1]
        noise = jax.random.normal(key, (len(labels_B), size))
        return draw_images(denoise, noise, label=labels_B, signals_N=SIGNALS_N)

    return jax.jit(draw)


@cache
def train_judge(data: str) -> Judge:
    """Train the classifier, on all training images."""
    loaded = load_data(data)
    net = MLP((*FEATURES, CLASSES))
    body = MLP(FEATURES)
    images_BM, labels_B = jnp.asarray(loaded.train_BM), jnp.asarray(loaded.train_B)
    n_steps = 3000
    tx = optax.adam(optax.cosine_decay_schedule(RATE, n_steps))

    def loss(params: PyTree, rows: Array) -> Array:
        logits_BV = jnp.asarray(net.apply(params, images_BM[rows]))
        return losses.next_token_loss(logits_BV, labels_B[rows]).mean()

    def step(state: PyTree, rows: Array) -> tuple[PyTree, tuple[()]]:
        params, opt_state = state
        moves, opt_state = tx.update(jax.grad(loss)(params, rows), opt_state)
        return (optax.apply_updates(params, moves), opt_state), ()

    def batch_at(number: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(1), number)
        return jax.random.randint(key, (BATCH,), 0, len(labels_B))

    params = net.init(jax.random.key(0), images_BM[:1])
    run = partial(fit, step, batch_at=batch_at, n_steps=n_steps, log_every=n_steps)
    params = jax.jit(lambda state: run(state).state[0])((params, tx.init(params)))

    @jax.jit
    def read(images: Array) -> tuple[Array, Array]:
        layers = dict(params["params"])
        layers.pop(f"layer_{len(FEATURES)}")
        features = jnp.asarray(body.apply({"params": layers}, images))
        return jnp.asarray(net.apply(params, images)), jax.nn.relu(features)

    wrong = jnp.argmax(read(loaded.test_BM)[0], axis=-1) != loaded.test_B
    return Judge(read, 100 * float(wrong.mean()))
