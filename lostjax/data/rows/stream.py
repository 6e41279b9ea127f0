"""A stream of tokens, read as rows of equal length.

    e t1 .. tn e u1 .. um e          e: end-of-text, before and after each document

All tokens except the last are inputs, and all except the first are targets. Every token
and every boundary is predicted exactly once; the first token of a document is predicted
from e alone. Row r contains the stream from r T to (r + 1) T. The unused end of the
last row has weight 0. If a row boundary cuts a document, positions restart at 0 in the
next row. Segments and positions follow from the locations of e.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy.typing import NDArray

from lostjax.data.stored_tokens import StoredTokens


class RowArrays(NamedTuple):
    """Arrays of some rows of a stream."""

    tokens_BT: Int[np.ndarray, "B T"]
    targets_BT: Int[np.ndarray, "B T"]
    weights_BT: Float[np.ndarray, "B T"]
    segments_BT: Int[np.ndarray, "B T"]
    positions_BT: Int[np.ndarray, "B T"]


@dataclass(frozen=True)
class Rows:
    """A stream of tokens, read as rows of `seq_len` tokens."""

    stream: NDArray[np.unsignedinteger] | StoredTokens
    """The tokens (N,), with end-of-text tokens between and around the documents."""
    seq_len: int
    vocab_size: int
    eos_id: int
    n_documents: int
    n_bytes: int
    """Number of UTF-8 bytes of the documents."""
    content_hash: str
    """Hash of everything that the rows depend on: text, tokenizer and row length. The
    cache verifies the stream's own bytes."""

    @property
    def n_predicted(self) -> int:
        """Number of targets of weight 1: tokens of documents and one boundary each."""
        return self.stream.size - 1

    @property
    def n_rows(self) -> int:
        """Number of rows; the last one may contain padding."""
        # Ceiling division in integers; a float would round for large streams.
        return -(-self.n_predicted // self.seq_len)

    def take(self, rows: Int[np.ndarray, " B"]) -> RowArrays:
        """Read rows.

        Args:
          rows: row numbers (B,) in [0, n_rows); -1 returns a row of padding.

        Returns:
          Arrays (B, T) of these rows, in the given order.
        """
        time = np.arange(self.seq_len + 1)
        # int64: row number times row length overflows int32 beyond 2^31 tokens.
        at_BS = rows[:, None].astype(np.int64) * self.seq_len + time
        real_BT = (at_BS[:, :-1] < self.n_predicted) & (rows[:, None] >= 0)
        stream_BS = np.zeros(at_BS.shape, np.int32)  # padding is replaced below
        for row_S, first in zip(stream_BS, at_BS[:, 0].tolist(), strict=True):
            if first >= 0:
                read = self.stream[first : first + self.seq_len + 1]
                row_S[: len(read)] = read
        tokens_BT = np.where(real_BT, stream_BS[:, :-1], self.eos_id)
        starts_BT = (tokens_BT == self.eos_id) & real_BT
        # A row starts a segment even inside a document: attention does not cross rows.
        starts_BT[:, 0] = True
        # A running maximum of the starts gives each token the start of its document.
        start_BT = np.maximum.accumulate(np.where(starts_BT, time[:-1], 0), axis=1)
        return RowArrays(
            tokens_BT=tokens_BT.astype(np.int32),
            targets_BT=np.where(real_BT, stream_BS[:, 1:], self.eos_id).astype(
                np.int32
            ),
            weights_BT=real_BT.astype(np.float32),
            segments_BT=np.where(real_BT, starts_BT.cumsum(1), 0).astype(np.int32),
            positions_BT=np.where(real_BT, time[:-1] - start_BT, 0).astype(np.int32),
        )


def join_streams(rows: Sequence[Rows]) -> Integer[np.ndarray, " N"]:
    """Concatenate streams of sources, with one end-of-text token between them.

    Args:
      rows: at least one source.

    Returns:
      Token ids (N,).
    """
    # A stream ends in the token that the next one starts with.
    tails = [part.stream[1:] for part in rows[1:]]
    return np.concatenate([np.asarray(part) for part in (rows[0].stream, *tails)])
