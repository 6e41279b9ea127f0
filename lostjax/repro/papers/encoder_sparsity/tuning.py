"""MiniLM with a mask on its layers, fine-tuned to tell topics."""

import dataclasses
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import analysis
from lostjax.optim import mask_updates
from lostjax.repro.papers.encoder_sparsity.articles import (
    TOPICS,
    load_articles,
    split_articles,
)
from lostjax.repro.papers.encoder_sparsity.encoder import (
    embed_tokens,
    find_encoder_matrices,
    load_encoder,
    pool_texts,
    run_layers,
)
from lostjax.typing import Array, PyTree

HEAD_RATE = 20
"""Factor on the learning rate of the head, which starts at zero."""
SCORED = 50
"""Texts that are scored at once."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What is removed, and how the rest is trained."""

    mask: str = "smallest"
    sparsity: float = 0.0
    articles: int = 600
    """That seeds draw theirs from."""
    texts: int = 200
    validation_texts: int = 100
    test_texts: int = 200
    length: int = 64
    batch: int = 8
    layers: int = 1
    """Uppermost layers that are trained; those below stay as they are pruned."""
    rate: float = 8e-4
    """Peak rate of AdamW, which falls to 0 in one pass over the texts."""


class Errors(NamedTuple):
    """What is wrong of a part of the texts."""

    share: float
    """Of texts whose topic is not found, in [0, 1]."""
    loss: float
    """Cross entropy, nats."""


class Rows(NamedTuple):
    """Texts, as the trained layers read them."""

    states_BTD: Any
    is_token_BT: Any
    labels_B: Any

    def take(self, rows: np.ndarray) -> "Rows":
        """Take some of them."""
        return Rows(*(array[rows] for array in self))


class Pruned(NamedTuple):
    """A pruned encoder and all texts."""

    rows: Rows
    layers: PyTree
    """Those that are trained."""
    mask: PyTree


@lru_cache(maxsize=64)
def fine_tune(config: Tuned, seed: int, *, validate: bool = False) -> Errors:
    """Prune the encoder, fine-tune what is left on a seed's texts, and test it.

    Args:
      config: what is removed and how the rest is trained.
      seed: of the texts and their order.
      validate: score the texts to tune by in place of those to test on.
    """
    made = _prune(dataclasses.replace(config, rate=0.0))
    train, valid, test = split_articles(
        config.articles,
        seed=seed,
        train_rows=config.texts,
        validation_rows=config.validation_texts,
        test_rows=config.test_texts,
    )
    width = made.rows.states_BTD.shape[-1]
    params = {"layers": made.layers, "head": jnp.zeros((width + 1, len(TOPICS)))}
    step, init = _build_step(config.rate, max(1, config.texts // config.batch))
    state = init(params, {"layers": made.mask, "head": True})
    for first in range(0, config.texts - config.batch + 1, config.batch):
        rows = made.rows.take(train[first : first + config.batch])
        params, state = step(params, state, rows)
    return _score(params, made.rows.take(valid if validate else test))


@lru_cache(maxsize=2)
def _prune(config: Tuned) -> Pruned:
    """Prune the encoder, and run the layers that are not trained on all texts."""
    encoder, mask = _load(), _make_mask(config)
    layers = analysis.apply_mask(encoder["layers"], mask["layers"])

    def cut(tree: PyTree, part: slice) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[part] if np.ndim(leaf) else leaf, tree)

    below, above = slice(0, -config.layers), slice(-config.layers, None)
    texts = load_articles(config.length, count=config.articles)

    @jax.jit
    def run(tokens_BT: Array, is_token_BT: Array) -> Array:
        x_BTD = embed_tokens(encoder["embeddings"], tokens_BT)
        return run_layers(cut(layers, below), x_BTD, is_token_BT)

    states = [
        np.asarray(
            run(*(jnp.asarray(each[first : first + SCORED]) for each in texts[:2]))
        )
        for first in range(0, config.articles, SCORED)
    ]
    return Pruned(
        Rows(np.concatenate(states), texts.is_token_BT, texts.labels_B),
        cut(layers, above),
        cut(mask["layers"], above),
    )


@cache
def _load() -> PyTree:
    return load_encoder()


def _make_mask(config: Tuned) -> PyTree:
    """Make the mask of all layers; a random one is the same for all seeds."""
    encoder = _load()
    if config.mask == "smallest":
        return analysis.magnitude_mask(
            encoder, config.sparsity, matrices=find_encoder_matrices
        )
    return analysis.random_mask(
        encoder,
        config.sparsity,
        key=jax.random.key(0),
        matrices=find_encoder_matrices,
    )


@cache
def _build_step(
    rate: float, steps: int
) -> tuple[Callable[..., tuple[PyTree, PyTree]], Callable[[PyTree, PyTree], PyTree]]:
    """Compile a step, and what makes its first state from parameters and a mask."""

    def make(factor: int) -> optax.GradientTransformation:
        schedule = optax.linear_schedule(factor * rate, 0.0, steps)
        return optax.adamw(schedule, weight_decay=0.01)

    rates = optax.partition(
        {"layers": make(1), "head": make(HEAD_RATE)},
        {"layers": "layers", "head": "head"},
    )

    def build(mask: PyTree) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(
            optax.chain(optax.clip_by_global_norm(1.0), rates, mask_updates(mask))
        )

    @jax.jit
    def step(params: PyTree, state: PyTree, rows: Rows) -> tuple[PyTree, PyTree]:
        def loss(params: PyTree) -> Array:
            logits_BV = _classify(params, rows)
            return jnp.mean(
                optax.softmax_cross_entropy_with_integer_labels(
                    logits_BV, jnp.asarray(rows.labels_B)
                )
            )

        # The mask is in the state: one program trains under all of them.
        updates, state = build(True).update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step, lambda params, mask: build(mask).init(params)


@jax.jit
def _classify(params: PyTree, rows: Rows) -> Array:
    is_token_BT = jnp.asarray(rows.is_token_BT)
    states_BTD = run_layers(params["layers"], jnp.asarray(rows.states_BTD), is_token_BT)
    head = params["head"]
    return jnp.asarray(pool_texts(states_BTD, is_token_BT) @ head[:-1] + head[-1])


def _score(params: PyTree, texts: Rows) -> Errors:
    parts = []
    for first in range(0, len(texts.labels_B), SCORED):
        rows = texts.take(np.arange(first, min(first + SCORED, len(texts.labels_B))))
        parts.append(np.asarray(_classify(params, rows)))
    logits_BV = np.concatenate(parts)
    losses_B = optax.softmax_cross_entropy_with_integer_labels(
        logits_BV, texts.labels_B
    )
    wrong = float(np.mean(logits_BV.argmax(-1) != texts.labels_B))
    return Errors(wrong, float(losses_B.mean()))
