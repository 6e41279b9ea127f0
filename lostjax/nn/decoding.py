"""Sampling text from a model, one token at a time, with a KV cache.

    p(next) ~ softmax(logits / temperature), cut to the top k and then the top p

Temperature 0 takes the likeliest token. Top-k keeps the k likeliest tokens; top-p
(nucleus; Holtzman et al., 2020, arXiv 1904.09751) keeps the likeliest ones until their
probability, after temperature and top-k, reaches p.

The prompt is read in one pass, then each token costs one pass over one position: the
cache holds the keys and values of all earlier ones, 2 L D numbers a position and row.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from lostjax.nn.transformer import Transformer
from lostjax.typing import Array, Float, Int, Key, Variables

Carry = tuple[Variables, Array]
"""The cache and the token that is not in it yet."""


def sample_tokens(
    model: Transformer,
    variables: Variables,
    *,
    prompt_BT: Int[Array, "B T"],
    n_tokens: int,
    key: Key,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, "B T+{n_tokens}"]:
    """Continue every prompt by the same number of tokens.

    Args:
        model: the model; its `cache_length` is of no consequence.
        variables: its parameters and channels.
        prompt_BT: token ids to begin with, at least one a row.
        n_tokens: how many tokens to add, >= 1.
        key: random key; the same key gives the same tokens.
        temperature: >= 0; 0 is greedy and uses no randomness.
        top_k: draw among the k likeliest tokens, 1 to V; None for all.
        top_p: draw among the likeliest tokens that together reach this probability,
            in (0, 1]; None for all.

    Returns:
        Prompt and continuation, (B, T + n_tokens), int32.

    Raises:
        ValueError: an argument out of its range.
    """
    _check(model, prompt_BT, n_tokens, temperature, top_k, top_p)
    tokens: Array = _sample(
        # The last token drawn is never read, so it needs no place in the cache.
        model.clone(cache_length=prompt_BT.shape[1] + n_tokens - 1, parent=None),
        {name: variables[name] for name in variables if name != "cache"},
        jnp.asarray(prompt_BT, jnp.int32),
        key,
        1.0 if temperature == 0 else temperature,
        top_p,
        n_tokens=n_tokens,
        top_k=1 if temperature == 0 else top_k,
    )
    return tokens


def cut_logits(
    logits_BV: Float[Array, "B V"],
    *,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Float[Array, "B V"]:
    """Set the logits of unlikely tokens to minus infinity.

    Args:
        logits_BV: scores, temperature applied.
        top_k: how many to keep, 1 to V; tokens as likely as the k-th stay too.
        top_p: keep the likeliest until their probability reaches this, in (0, 1].

    Returns:
        The logits (B, V), at least one of every row finite.
    """
    if top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p is not None:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
        # What the likelier tokens reach without this one: 0 for the first, which stays.
        before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
        kept_BV = jnp.where(before_BV < top_p, sorted_BV, jnp.inf)
        least_B1 = jnp.min(kept_BV, axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


@partial(jax.jit, static_argnums=0, static_argnames=("n_tokens", "top_k"))
def _sample(
    model: Transformer,
    variables: Variables,
    prompt_BT: Array,
    key: Key,
    temperature: float | Array,
    top_p: float | Array | None,
    *,
    n_tokens: int,
    top_k: int | None,
) -> Array:
    def draw(logits_BTV: Array, key: Key) -> Array:
        logits_BV = logits_BTV[:, -1] / temperature
        if top_k == 1:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        logits_BV = cut_logits(logits_BV, top_k=top_k, top_p=top_p)
        return jax.random.categorical(key, logits_BV).astype(jnp.int32)

    def advance(cache: Variables, tokens_BT: Array) -> tuple[Array, Variables]:
        read = model.apply({**variables, **cache}, tokens_BT, mutable=["cache"])
        return cast(tuple[Array, Variables], read)

    def step(carry: Carry, key: Key) -> tuple[Carry, Array]:
        logits_BTV, cache = advance(carry[0], carry[1][:, None])
        token_B = draw(logits_BTV, key)
        return (cache, token_B), token_B

    keys = jax.random.split(key, n_tokens)
    logits_BTV, cache = advance({}, prompt_BT)
    first_B = draw(logits_BTV, keys[0])
    _, rest_TB = jax.lax.scan(step, (cache, first_B), keys[1:])
    return jnp.concatenate([prompt_BT, first_B[:, None], rest_TB.T], axis=1)


def _check(
    model: Transformer,
    prompt_BT: Array,
    n_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if prompt_BT.shape[1] < 1:
        raise ValueError("prompt_BT is empty: at least one token is needed")
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens}: must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be 0 (greedy) or more")
    if top_k is not None and not 1 <= top_k <= model.vocab_size:
        raise ValueError(f"top_k={top_k}: must be 1 to vocab_size={model.vocab_size}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be above 0 and at most 1")
