"""Autoregressive sampling with a KV cache.

    p(next) ~ softmax(logits / temperature), cut to the top k and then the top p

Temperature 0 selects the most likely token. Top-k keeps the k most likely tokens. Top-p
(nucleus sampling; Holtzman et al., 2020, arXiv 1904.09751) keeps the most likely tokens
until their total probability, computed after temperature and top-k, reaches p.

The prompt is processed in one pass; every further token costs one pass over a single
position. The cache holds the keys and values of all earlier positions: 2 L D values per
position and row.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from lostjax.nn.transformer import Transformer
from lostjax.typing import Array, Float, Int, Key, Variables

Carry = tuple[Variables, Array]
"""Scan carry: the cache, and the last token, which is not yet in the cache."""


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
    prefix_BPD: Float[Array, "B P D"] | None = None,
) -> Int[Array, "B T+{n_tokens}"]:
    """Extend every prompt by `n_tokens` sampled tokens.

    Args:
        model: the model; its `cache_length` is ignored.
        variables: parameters and channels of the model.
        prompt_BT: token ids to continue (B, T), T >= 1.
        n_tokens: number of tokens to add, >= 1.
        key: random key; equal keys produce equal tokens.
        temperature: softmax temperature, >= 0; 0 is greedy and ignores the key.
        top_k: sample from the k most likely tokens, 1 to V; None for all.
        top_p: sample from the most likely tokens whose total probability reaches
            top_p, in (0, 1]; None for all.
        prefix_BPD: embeddings before the prompt (B, P, D), such as those of an image.

    Returns:
        Prompt and continuation, (B, T + n_tokens), int32.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if prompt_BT.shape[1] < 1:
        raise ValueError("prompt_BT is empty: at least one token is needed")
    check_sampling(
        model.vocab_size,
        n_tokens=n_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    tokens: Array = _sample(
        # The last sampled token is never fed back, so the cache has no place for it.
        model.clone(
            cache_length=count_prefix(prefix_BPD) + prompt_BT.shape[1] + n_tokens - 1,
            parent=None,
        ),
        {name: variables[name] for name in variables if name != "cache"},
        jnp.asarray(prompt_BT, jnp.int32),
        key,
        # Greedy decoding takes the argmax: any finite temperature avoids 0 / 0.
        1.0 if temperature == 0 else temperature,
        top_p,
        prefix_BPD,
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
    """Set the logits outside the top k and the top p to minus infinity.

    Args:
        logits_BV: logits (B, V), already divided by the temperature.
        top_k: number of tokens to keep, 1 to V; tokens that tie with the k-th are kept.
        top_p: total probability after which less likely tokens are dropped, in (0, 1].

    Returns:
        The logits (B, V); at least one entry per row stays finite.
    """
    if top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p is not None:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
        # Probability of all likelier tokens; 0 for the first, which is always kept.
        before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
        # +inf for dropped tokens, so that the minimum is the least kept logit.
        kept_BV = jnp.where(before_BV < top_p, sorted_BV, jnp.inf)
        least_B1 = jnp.min(kept_BV, axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


# Temperature and top_p are traced: changing them does not recompile the decoder.
@partial(jax.jit, static_argnums=0, static_argnames=("n_tokens", "top_k"))
def _sample(
    model: Transformer,
    variables: Variables,
    prompt_BT: Array,
    key: Key,
    temperature: float | Array,
    top_p: float | Array | None,
    prefix_BPD: Array | None,
    *,
    n_tokens: int,
    top_k: int | None,
) -> Array:
    draw = partial(draw_tokens, top_k=top_k)

    def step(carry: Carry, key: Key) -> tuple[Carry, Array]:
        logits_BTV, cache = read_on(model, variables, carry[0], carry[1][:, None])
        token_B = draw(logits_BTV, key, temperature, top_p)
        return (cache, token_B), token_B

    keys = jax.random.split(key, n_tokens)
    logits_BTV, cache = read_on(model, variables, {}, prompt_BT, prefix_BPD)
    first_B = draw(logits_BTV, keys[0], temperature, top_p)
    _, rest_TB = jax.lax.scan(step, (cache, first_B), keys[1:])
    return jnp.concatenate([prompt_BT, first_B[:, None], rest_TB.T], axis=1)


@partial(jax.jit, static_argnums=0)
def read_on(
    model: Transformer,
    variables: Variables,
    cache: Variables,
    tokens_BT: Array,
    prefix_BPD: Array | None = None,
) -> tuple[Array, Variables]:
    """Read tokens after those in the cache; returns their logits and the cache."""
    read = model.apply(
        {**variables, **cache}, tokens_BT, prefix_BPD=prefix_BPD, mutable=["cache"]
    )
    return cast(tuple[Array, Variables], read)


@partial(jax.jit, static_argnames="top_k")
def draw_tokens(
    logits_BTV: Array,
    key: Key,
    temperature: float | Array,
    top_p: float | Array | None,
    *,
    top_k: int | None,
) -> Array:
    """Draw the token after the last position."""
    logits_BV = logits_BTV[:, -1] / temperature
    if top_k == 1:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = cut_logits(logits_BV, top_k=top_k, top_p=top_p)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)


def count_prefix(prefix_BPD: Array | None) -> int:
    """Return the number of positions of a prefix; 0 for none."""
    return 0 if prefix_BPD is None else prefix_BPD.shape[1]


def check_sampling(
    vocab_size: int,
    *,
    n_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    """Check the arguments of `sample_tokens` before there is a model.

    Raises:
      ValueError: `NAME=VALUE: ...` if an argument is out of its range.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens}: must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be 0 (greedy) or more")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(f"top_k={top_k}: must be 1 to vocab_size={vocab_size}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be above 0 and at most 1")
