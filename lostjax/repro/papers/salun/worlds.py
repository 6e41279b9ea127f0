"""Classifiers, what each is to forget, and the classifiers that never saw it."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import epoch_rows
from lostjax.nn import MLP
from lostjax.repro.problems.images import GARMENTS, load_rows
from lostjax.steps import fit
from lostjax.typing import Array, Int, Key, PyTree

CLASSES, BATCH = 10, 100
MOMENTUM, DECAY, RATE = 0.9, 5e-4, 0.1
"""Of the classifiers, by stochastic gradient descent with a cosine schedule."""

RANDOM, CLASS = "10 % at random", "one class"
KINDS = (RANDOM, CLASS)
TUNED, MEASURED = 0, 1
"""Two sets to forget of each kind: rates are chosen on the first."""


@dataclasses.dataclass(frozen=True)
class World:
    """Size of the classifiers and of their data."""

    data: str = GARMENTS
    """Or digits, for the smoke scale."""
    rows: int = 2000
    """As many of each class; a tenth is forgotten."""
    test_rows: int = 2000
    hidden: int = 256
    epochs: int = 60

    @property
    def forgotten(self) -> int:
        """Number of rows to forget."""
        return self.rows // CLASSES


class Case(NamedTuple):
    """A classifier and what it is to forget; arrays of NumPy, or traced."""

    inputs_BM: Any
    labels_B: Any
    forget_F: Any
    """Rows."""
    retain_R: Any
    """All other rows."""
    params: PyTree
    """Of the classifier that was trained on all rows."""
    retrained: PyTree
    """Of the one that was trained on the retained rows, from the same start."""
    anew: PyTree
    """Of another one, from another start."""
    key: Key


def network(world: World) -> MLP:
    """Build the classifier."""
    return MLP((world.hidden, CLASSES))


def example_losses(world: World, params: PyTree, batch: tuple[Array, Array]) -> Array:
    """Compute cross entropies of (inputs, labels)."""
    inputs_BM, labels_B = batch
    logits_BV = jnp.asarray(network(world).apply(params, inputs_BM))
    return losses.next_token_loss(logits_BV, labels_B)


def draw_rows(
    world: World, seed: int
) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "4 F"]]:
    """Draw rows of the data, and places among them to forget, kind by kind."""
    labels = load_rows(world.data).train.labels
    generator = np.random.default_rng(seed)
    each = world.forgotten
    chosen = np.stack(
        [
            generator.permutation(np.flatnonzero(labels == one))[:each]
            for one in range(CLASSES)
        ]
    )
    at_random = generator.permutation(world.rows)[: 2 * each].reshape(2, each)
    two = generator.permutation(CLASSES)[:2]
    of_class = two[:, None] * each + np.arange(each)
    return chosen.ravel(), np.concatenate([at_random, of_class])


@cache
def build_cases(world: World, seeds: tuple[int, ...]) -> Case:
    """Train every classifier: leaves (seeds * kinds * 2, ...), by seed, then kind."""
    train_rows = load_rows(world.data).train
    drawn = [draw_rows(world, seed) for seed in seeds]
    inputs = np.stack([train_rows.inputs[rows] for rows, _ in drawn])
    labels = np.stack([train_rows.labels[rows] for rows, _ in drawn])
    n_cases = len(drawn[0][1])
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    everything = np.broadcast_to(np.arange(world.rows), (len(seeds), world.rows))
    whole = _train(world)(inputs, labels, everything, keys)
    inputs, labels, keys, params = jax.tree.map(
        lambda leaf: jnp.repeat(leaf, n_cases, axis=0), (inputs, labels, keys, whole)
    )
    forget = np.concatenate([places for _, places in drawn])
    retain = np.stack([np.setdiff1d(np.arange(world.rows), each) for each in forget])
    others = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    retrained, anew = (
        _train(world)(inputs, labels, retain, each) for each in (keys, others)
    )
    return Case(
        inputs, labels, jnp.asarray(forget), jnp.asarray(retain), params, retrained,
        anew, keys,
    )  # fmt: skip


@cache
def _train(world: World) -> Callable[..., PyTree]:
    """Train classifiers on rows of their data, one after another in a program each."""

    def train(inputs_BM: Array, labels_B: Array, rows_R: Array, key: Key) -> PyTree:
        start, order = jax.random.split(key)
        batches_SB = epoch_rows(
            order, n_rows=len(rows_R), batch_size=BATCH, n_epochs=world.epochs
        )
        tx = optax.chain(
            optax.add_decayed_weights(DECAY),
            optax.sgd(
                optax.cosine_decay_schedule(RATE, len(batches_SB)), momentum=MOMENTUM
            ),
        )

        def step(state: PyTree, rows_B: Array) -> tuple[PyTree, tuple[()]]:
            params, opt_state = state
            batch = inputs_BM[rows_B], labels_B[rows_B]
            slopes = jax.grad(
                lambda params: example_losses(world, params, batch).mean()
            )(params)
            moves, opt_state = tx.update(slopes, opt_state, params)
            return (optax.apply_updates(params, moves), opt_state), ()

        params = network(world).init(start, inputs_BM[:1])
        state = fit(
            step,
            (params, tx.init(params)),
            batch_at=lambda number: rows_R[batches_SB[number]],
            n_steps=len(batches_SB),
            log_every=len(batches_SB),
        ).state
        return state[0]

    return jax.jit(jax.vmap(train))
