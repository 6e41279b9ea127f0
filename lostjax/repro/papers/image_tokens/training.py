"""A language model that sees pictures, and weights from one that does not."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.nn import PatchEncoder, Transformer
from lostjax.repro.papers.image_tokens.pictures import (
    VOCABULARY,
    Captioning,
    Data,
    make_data,
    make_task,
)
from lostjax.steps import fit
from lostjax.typing import Array, Float, PyTree

REFERENCE_RATE = 4e-3


def build_model(config: Captioning) -> tuple[Transformer, PatchEncoder]:
    """Build the language model and what embeds pictures for it."""
    model = Transformer(
        vocab_size=VOCABULARY,
        d_model=config.width,
        n_layers=config.layers,
        n_heads=2,
        d_hidden=8 * config.width // 3 // 4 * 4,
    )
    encoder = PatchEncoder(
        patch=8 if config.source == "openmoji" else 4,
        d_model=config.width,
        n_layers=config.encoder_layers,
        n_heads=2,
        d_hidden=2 * config.width,
    )
    return model, encoder


def compute_logits(
    config: Captioning, params: PyTree, images_BHWC: Array, tokens_BT: Array
) -> Float[Array, "B T V"]:
    """Compute the logits of captions, from pictures if the model sees them."""
    model, _ = build_model(config)
    logits: Any = model.apply(
        {"params": params["model"]},
        tokens_BT,
        prefix_BPD=embed_pictures(config, params, images_BHWC),
    )
    made: Array = logits
    return made


def embed_pictures(
    config: Captioning, params: PyTree, images_BHWC: Array
) -> Float[Array, "B P D"] | None:
    """Embed pictures for the language model; None if it does not see them."""
    if not config.sees:
        return None
    _, encoder = build_model(config)
    embedded: Any = encoder.apply({"params": params["encoder"]}, images_BHWC)
    made: Array = embedded
    return made


def run(config: Captioning, data: Data, rate: float, key: Array) -> PyTree:
    """Train one model; returns its parameters."""
    return _run(_shape_of(config), data, jnp.float32(rate), key)


def _shape_of(config: Captioning) -> Captioning:
    """Return what a program depends on: one is compiled for all weights."""
    return dataclasses.replace(config, alpha=0.0, min_weight=0.0, shuffled=False)


@partial(jax.jit, static_argnames="config")
def _run(config: Captioning, data: Data, rate: Array, key: Array) -> PyTree:
    model, encoder = build_model(config)
    shape = optax.warmup_cosine_decay_schedule(
        0.0, 1.0, config.steps // 10, config.steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda step: rate * shape(step), b2=0.95, weight_decay=0.1),
    )

    def loss(params: PyTree, rows_B: Array) -> Array:
        tokens_BT = data.tokens_NT[rows_B]
        logits_BTV = compute_logits(
            config, params, data.images_NHWC[rows_B], tokens_BT[:, :-1]
        )
        values_BT = losses.next_token_loss(logits_BTV, tokens_BT[:, 1:])
        return losses.weighted_mean(values_BT, data.factors_NT[rows_B])

    def step(state: Any, rows_B: Array) -> tuple[Any, None]:
        params, opt_state = state
        grads = jax.grad(loss)(params, rows_B)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    first_key, second_key = jax.random.split(key)
    params = {
        "model": model.init(first_key, data.tokens_NT[:1, :-1])["params"],
        "encoder": encoder.init(second_key, data.images_NHWC[:1])["params"],
    }
    state = params, tx.init(params)
    made = fit(
        step, state, batch_at=lambda number: data.rows_SB[number], n_steps=config.steps
    )
    return made.state[0]


def score_captions(
    config: Captioning,
    params: PyTree,
    data: Data,
    *,
    rows: np.ndarray | None = None,
) -> tuple[Array, Array]:
    """Compute the loss of every token of captions, and whether its guess is wrong.

    Args:
      config: the model's.
      params: the model's.
      data: pictures and captions.
      rows: pictures whose captions are scored; None for all.

    Returns:
      Two arrays (rows, T).
    """
    if rows is None:
        rows = np.arange(len(data.tokens_NT))
    # Splits of different seeds differ by a few rows: one program for all.
    padded = np.resize(rows, -(-len(rows) // 256) * 256)
    losses_NT, wrong_NT = _score_captions(
        _shape_of(config), params, data.images_NHWC[padded], data.tokens_NT[padded]
    )
    return losses_NT[: len(rows)], wrong_NT[: len(rows)]


@partial(jax.jit, static_argnames="config")
def _score_captions(
    config: Captioning, params: PyTree, images_NHWC: Array, tokens_NT: Array
) -> tuple[Array, Array]:
    def one(row: tuple[Array, Array]) -> tuple[Array, Array]:
        image_HWC, tokens_T = row
        logits_1TV = compute_logits(
            config, params, image_HWC[None], tokens_T[None, :-1]
        )
        values_1T = losses.next_token_loss(logits_1TV, tokens_T[None, 1:])
        wrong_T = jnp.argmax(logits_1TV[0], axis=-1) != tokens_T[1:]
        return values_1T[0], wrong_T.astype(jnp.float32)

    scored: tuple[Array, Array]
    scored = jax.lax.map(one, (images_NHWC, tokens_NT), batch_size=64)
    return scored


@cache
def weigh_tokens(config: Captioning, seed: int) -> Array:
    """Train the reference of a method, and compute the factors of all captions once."""
    reference = dataclasses.replace(_shape_of(config), sees=False, encoder_layers=0)
    kinds_NT = make_task(config.source, config.share, seed).captions.kinds_NT
    there_NT = jnp.asarray(kinds_NT > 0, jnp.float32)
    factors_NT = there_NT * losses.surprisal_weights_of_losses(
        score_reference(reference, seed),
        alpha=config.alpha,
        min_weight=config.min_weight,
        weights=there_NT,
    )
    if config.shuffled:
        factors_NT = jnp.asarray(_shuffle(np.array(factors_NT), seed=seed))
    return factors_NT


@cache
def score_reference(reference: Captioning, seed: int) -> Array:
    """Train the language model of the text alone; returns its losses (N, T)."""
    task = make_task(reference.source, reference.share, seed)
    data = make_data(task, reference, seed=seed)
    # Another start than that of the models that its weights are for.
    params = run(reference, data, REFERENCE_RATE, jax.random.key(seed + 1000))
    losses_NT: Array
    losses_NT, _ = score_captions(reference, params, data)
    return losses_NT


def _shuffle(factors_NT: np.ndarray, *, seed: int) -> np.ndarray:
    """Shuffle the factors of each caption among its tokens."""
    rng = np.random.default_rng(seed)
    for factors_T in factors_NT:
        there = np.flatnonzero(factors_T)
        factors_T[there] = rng.permutation(factors_T[there])
    return factors_NT
