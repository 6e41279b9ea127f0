"""Continue a prompt with a run's model, and refuse wrong values before it is read."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lostjax.data import Tokenizer
from lostjax.errors import ConfigError
from lostjax.nn import Transformer, sample_tokens
from lostjax.nn.decoding import check_sampling
from lostjax.nn.streaming import STREAM_PIECE, stream_tokens
from lostjax.train.config.checks import check_seed
from lostjax.train.config.fields import flag_name
from lostjax.typing import Array, Variables

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Bytes that are no whole character yet decode to it."""

MOST_TOKENS = 2**17
"""Attention reads a cache of all tokens at every step: time grows with their square."""


class Sampling(NamedTuple):
    """How tokens are drawn; `python -m lostjax.generate` describes the fields."""

    tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


def make_sampling(
    tokens: int,
    temperature: float | int,
    top_k: int | None,
    top_p: float | int | None,
    seed: int,
) -> Sampling:
    """Collect values that a caller may pass as whole numbers."""
    cut = None if top_p is None else float(top_p)
    return Sampling(tokens, float(temperature), top_k, cut, seed)


def continue_prompt(
    prompt: str,
    sampling: Sampling,
    *,
    tokenizer: Tokenizer,
    read_model: Callable[[], tuple[Transformer, Variables]],
) -> str:
    """Continue a prompt.

    Args:
      prompt: the text to continue.
      sampling: how tokens are drawn.
      tokenizer: the model's.
      read_model: returns the model and its variables, on one device; is called after
        the values were checked.

    Returns:
      The continuation, without the prompt, up to the end of the document if the model
      generates one.

    Raises:
      ConfigError: if a value is out of its range.
    """
    check_values(sampling, vocab_size=tokenizer.vocab_size)
    model, variables = read_model()
    options = _options(prompt, sampling, tokenizer)
    n_prompt = options["prompt_BT"].shape[1]
    tokens_BT = sample_tokens(model, variables, **options)
    continuation = [int(token) for token in tokens_BT[0, n_prompt:]]
    if tokenizer.eos_id in continuation:
        continuation = continuation[: continuation.index(tokenizer.eos_id)]
    return tokenizer.decode(continuation)


def stream_prompt(
    prompt: str,
    sampling: Sampling,
    *,
    tokenizer: Tokenizer,
    read_model: Callable[[], tuple[Transformer, Variables]],
) -> Iterator[str]:
    """Continue a prompt piece by piece; see `continue_prompt`.

    Yields:
      Pieces of the continuation as their tokens are drawn.
    """
    check_values(sampling, vocab_size=tokenizer.vocab_size)
    model, variables = read_model()
    ids: list[int] = []
    shown = ""
    tokens = stream_tokens(model, variables, **_options(prompt, sampling, tokenizer))
    for token_B in tokens:
        if int(token_B[0]) == tokenizer.eos_id:
            break
        ids.append(int(token_B[0]))
        text = tokenizer.decode(ids)
        # A character may need more tokens: until then it decodes to a mark, and what
        # was shown stays as it is.
        if not text.endswith(REPLACEMENT) and text.startswith(shown):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(ids)[len(shown) :]:
        yield rest


def compile_stream(
    model: Transformer, variables: Variables, sampling: Sampling
) -> None:
    """Compile what `stream_prompt` runs for a prompt of up to a few hundred tokens."""
    n_prompt = STREAM_PIECE + 1  # one piece of each of the two usual lengths
    prompt_BT = jnp.zeros((1, n_prompt), jnp.int32)
    tokens = stream_tokens(model, variables, **_draw_options(prompt_BT, sampling))
    for _ in itertools.islice(tokens, 2):
        pass


def _options(prompt: str, sampling: Sampling, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = [tokenizer.eos_id, *tokenizer.encode_batch([prompt])[0]]
    return _draw_options(jnp.asarray([ids], jnp.int32), sampling)


def _draw_options(prompt_BT: Array, sampling: Sampling) -> dict[str, Any]:
    return {
        "prompt_BT": prompt_BT,
        "n_tokens": sampling.tokens,
        "key": jax.random.key(sampling.seed),
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
    }


def check_values(sampling: Sampling, *, vocab_size: int) -> None:
    """Refuse values that are out of their range.

    Raises:
      ConfigError: with the flag, the value and what is allowed.
    """
    check_seed(sampling.seed)
    if sampling.tokens > MOST_TOKENS:
        raise ConfigError(f"--tokens={sampling.tokens}: must be 1 to {MOST_TOKENS}")
    try:
        check_sampling(
            vocab_size,
            n_tokens=sampling.tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        flag = "--tokens" if name == "n_tokens" else flag_name(name)
        raise ConfigError(f"{flag}={rest}") from None
