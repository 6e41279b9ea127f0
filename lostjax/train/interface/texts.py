"""Texts to evaluate a run's model on: batches of rows, or one stream of tokens."""

import numpy as np
from jaxtyping import Integer

from lostjax.data import EvalPlan, Rows, Tokenizer, open_corpus, pack_documents
from lostjax.data.rows.stream import join_streams
from lostjax.data.text.corpus import Documents, open_whole
from lostjax.errors import DataError
from lostjax.train.config.schema import TrainConfig


def plan_text(
    source: str | None, config: TrainConfig, *, tokenizer: Tokenizer
) -> EvalPlan:
    """Plan the batches of a text for a run's model.

    Args:
      source: the text, all of which is used; None for the run's held-out text.
      config: the run's configuration.
      tokenizer: the run's tokenizer.

    Returns:
      Every row of the text.

    Raises:
      DataError: if the text cannot be used or is empty.
    """
    rows = _pack(source, config, tokenizer=tokenizer)
    return EvalPlan(rows, batch_size=config.batch_size // config.accumulate)


def read_heldout_tokens(
    config: TrainConfig, *, tokenizer: Tokenizer
) -> Integer[np.ndarray, " N"]:
    """Read the tokens of a run's held-out text.

    Args:
      config: the run's configuration.
      tokenizer: the run's tokenizer.

    Returns:
      Token ids (N,), as one stream.

    Raises:
      DataError: if the text cannot be used or is empty.
    """
    return join_streams(_pack(None, config, tokenizer=tokenizer))


def _pack(
    source: str | None, config: TrainConfig, *, tokenizer: Tokenizer
) -> list[Rows]:
    data = config.data
    rows = [
        pack_documents(part, tokenizer, seq_len=data.seq_len, cache_dir=data.cache_dir)
        for part in _open(source, config)
    ]
    some = [part for part in rows if part.n_documents]
    if not some:
        raise DataError(f"{source or data.source}: contains no text to evaluate on")
    return some


def _open(source: str | None, config: TrainConfig) -> tuple[Documents, ...]:
    if source is None:
        data = config.data
        return open_corpus(data.source, heldout=data.heldout).heldout_parts
    return open_whole(source)
