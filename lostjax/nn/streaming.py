"""Autoregressive sampling token by token, for a person who reads along.

`decoding.sample_tokens` is one program for a length of prompt and number of tokens. A
stream takes the same steps in a few small programs, which serve prompts of all lengths.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from lostjax.nn.decoding import count_prefix, draw_tokens, read_on
from lostjax.nn.transformer import Transformer
from lostjax.typing import Array, Float, Int, Key, Variables

STREAM_PIECE = 16
"""A stream reads its prompt in pieces whose lengths are powers of this number."""

SHORTEST_CACHE = 256
"""Positions of a stream's cache, at least."""


def stream_tokens(
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
) -> Iterator[Int[Array, "B"]]:
    """Yield the tokens of `sample_tokens` one after the other, as they come.

    The prompt is read in pieces whose lengths are powers of `STREAM_PIECE`, and the
    length of the cache is a power of two, at least `SHORTEST_CACHE`: prompts of other
    lengths find programs that are compiled already.

    Args:
        model: see `sample_tokens`.
        variables: parameters and channels of the model.
        prompt_BT: token ids to continue (B, T), T >= 1.
        n_tokens: number of tokens to add, >= 1.
        key: random key.
        temperature: softmax temperature, >= 0; 0 is greedy.
        top_k: sample from the k most likely tokens; None for all.
        top_p: sample from the most likely tokens whose total probability reaches
            top_p; None for all.
        prefix_BPD: embeddings before the prompt (B, P, D).

    Yields:
        Token ids (B,), int32.
    """
    places = count_prefix(prefix_BPD) + prompt_BT.shape[1] + n_tokens - 1
    length = max(SHORTEST_CACHE, 1 << (places - 1).bit_length())
    decoder = model.clone(cache_length=length, parent=None)
    plain = {name: variables[name] for name in variables if name != "cache"}
    # NumPy cuts it without a program for each place and length.
    tokens_BT = np.asarray(prompt_BT, np.int32)
    # Not {}, for which the first piece of each length would be a program of its own.
    cache = _place_like(plain, _empty_cache(decoder, plain, tokens_BT[:, :1]))
    for piece_BT in _cut_prompt(tokens_BT):
        tokens = jnp.asarray(piece_BT)
        logits_BTV, cache = read_on(decoder, plain, cache, tokens, prefix_BPD)
        prefix_BPD = None  # it is in the cache now
    for number, each in enumerate(jax.random.split(key, n_tokens), 1):
        token_B = draw_tokens(
            logits_BTV,
            each,
            1.0 if temperature == 0 else temperature,
            top_p,
            top_k=1 if temperature == 0 else top_k,
        )
        yield token_B
        if number < n_tokens:
            # With None: a call without the argument is another program to jit.
            logits_BTV, cache = read_on(decoder, plain, cache, token_B[:, None], None)


@partial(jax.jit, static_argnums=0)
def _empty_cache(
    model: Transformer, variables: Variables, tokens_BT: Array
) -> Variables:
    read = partial(model.apply, mutable=["cache"])
    _, shapes = cast(
        tuple[Array, Variables], jax.eval_shape(read, variables, tokens_BT)
    )
    empty: Variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return empty


def _place_like(variables: Variables, cache: Variables) -> Variables:
    """Place a cache as the next one will be: a program belongs to its placement."""
    sharding = getattr(jax.tree.leaves(variables)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return cache
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    placed: Variables = jax.device_put(cache, whole)
    return placed


def _cut_prompt(prompt_BT: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    start, length, size = 0, prompt_BT.shape[1], 1
    while size * STREAM_PIECE <= length:
        size *= STREAM_PIECE
    while start < length:
        if start + size > length:
            size //= STREAM_PIECE
            continue
        yield prompt_BT[:, start : start + size]
        start += size
