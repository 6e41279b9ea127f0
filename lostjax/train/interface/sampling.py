"""Continue a prompt with a run's model, and refuse wrong values before it is read."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.data import Tokenizer
from lostjax.errors import ConfigError
from lostjax.nn import Transformer, sample_tokens
from lostjax.nn.decoding import check_sampling
from lostjax.train.config.checks import check_seed
from lostjax.train.config.fields import flag_name
from lostjax.typing import Variables

MOST_TOKENS = 2**17
"""Attention reads a cache of all tokens at every step: time grows with their square."""


class Sampling(NamedTuple):
    """How tokens are drawn; `python -m lostjax.generate` describes the fields."""

    tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


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
    _check(sampling, vocab_size=tokenizer.vocab_size)
    model, variables = read_model()
    ids = [tokenizer.eos_id, *tokenizer.encode_batch([prompt])[0]]
    tokens_BT = sample_tokens(
        model,
        variables,
        prompt_BT=jnp.asarray([ids], jnp.int32),
        n_tokens=sampling.tokens,
        key=jax.random.key(sampling.seed),
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    continuation = [int(token) for token in tokens_BT[0, len(ids) :]]
    if tokenizer.eos_id in continuation:
        continuation = continuation[: continuation.index(tokenizer.eos_id)]
    return tokenizer.decode(continuation)


def _check(sampling: Sampling, *, vocab_size: int) -> None:
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
