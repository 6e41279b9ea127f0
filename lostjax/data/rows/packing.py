"""Pack documents into one stream of tokens, cache it on disk, and read it as rows.

Documents t, u, ... are concatenated, with the end-of-text token e before each document
and after the last:

    e t1 .. tn e u1 .. um e

All tokens except the last are inputs, and all except the first are targets. Every token
and every boundary is predicted exactly once; the first token of a document is predicted
from e alone. Row r contains the stream from r T to (r + 1) T. The unused end of the
last row has weight 0. If a row boundary cuts a document, positions restart at 0 in the
next row.

Only the stream is stored (2 bytes per token up to a vocabulary of 65,536). It is
memory-mapped and independent of the row length; segments and positions follow from the
locations of e. Each opening reads it once to compare it with its hash: see
`data.cache`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy.typing import NDArray

from lostjax.data.cache import cached, default_cache_dir, hash_parts
from lostjax.data.text.documents import TextDocuments
from lostjax.data.text.token_files import TokenFiles
from lostjax.data.tokenizers.tokenizer import Tokenizer
from lostjax.errors import DataError, first_line

_CHUNK_CHARACTERS = 1 << 22


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

    stream: NDArray[np.unsignedinteger]
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
        # Clip to valid indices: padding is read from somewhere and then replaced.
        stream_BS = self.stream[np.clip(at_BS, 0, self.n_predicted)].astype(np.int32)
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


def pack_documents(
    documents: TextDocuments | TokenFiles,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    cache_dir: str | Path | None = None,
) -> Rows:
    """Tokenise and pack documents, or return the cached result.

    Args:
      documents: text, or files of token ids that `tokenizer` produced.
      tokenizer: tokenizer that encodes the documents.
      seq_len: tokens per row, at least 1.
      cache_dir: directory of the cache; default ~/.cache/lostjax.

    Returns:
      The rows, memory-mapped; there are none if there are no documents.

    Raises:
      DataError: if a document cannot be read, an id is outside the vocabulary,
        `seq_len` is below 1, or the cache cannot be written.
    """
    if seq_len < 1:
        raise DataError(f"seq_len: {seq_len} must be at least 1")
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)
    # "1" is the version of the format: raise it to invalidate old caches.
    key = hash_parts("stream 1", documents.fingerprint, tokenizer.fingerprint)
    place = cached(
        root / "tokens" / key, lambda path: _write(path, documents, tokenizer)
    )
    try:
        # Memory-mapped: the page cache shares it between processes. Pickles, which run
        # code, are refused.
        stream = np.load(place / "tokens.npy", mmap_mode="r", allow_pickle=False)
        counts = json.loads((place / "counts.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{place}: broken cache ({first_line(error)}); delete this directory"
        ) from error
    return Rows(
        stream=stream,
        seq_len=seq_len,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        n_documents=counts["documents"],
        n_bytes=counts["bytes"],
        content_hash=hash_parts(key, str(seq_len)),
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
    return np.concatenate([rows[0].stream, *tails])


class _Encoded(NamedTuple):
    tokens: NDArray[np.integer]
    n_bytes: int


def _write(
    path: Path, documents: TextDocuments | TokenFiles, tokenizer: Tokenizer
) -> None:
    """Write a stream incrementally, so that the text may be larger than memory."""
    path.mkdir()
    # Little-endian on every machine, so that a cache can be copied.
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    eos = np.array([tokenizer.eos_id], dtype)
    n_documents = n_bytes = 0
    size = 1
    with (path / "tokens.npy").open("wb") as file:
        _write_header(file, dtype, 0)
        file.write(eos.tobytes())
        for document in _encode(documents, tokenizer):
            file.write(document.tokens.astype(dtype).tobytes())
            file.write(eos.tobytes())
            n_documents += 1
            n_bytes += document.n_bytes
            size += document.tokens.size + 1
        # NumPy pads the header for any length, so rewriting it in place moves no data.
        file.seek(0)
        _write_header(file, dtype, size)
    counts = {"documents": n_documents, "bytes": n_bytes}
    (path / "counts.json").write_text(json.dumps(counts))


def _write_header(file: BinaryIO, dtype: np.dtype[np.unsignedinteger], n: int) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (n,)}
    # Header and data separately: np.save would need the whole array in memory.
    np.lib.format.write_array_header_1_0(file, header)


def _encode(
    documents: TextDocuments | TokenFiles, tokenizer: Tokenizer
) -> Iterator[_Encoded]:
    if isinstance(documents, TokenFiles):
        eos_id, vocab_size = tokenizer.eos_id, tokenizer.vocab_size
        for ids in documents.documents(eos_id=eos_id, vocab_size=vocab_size):
            # Bits per byte need bytes, and files of tokens have none but the decoded
            # ones.
            yield _Encoded(ids, len(tokenizer.decode(ids).encode("utf-8")))
        return
    for texts in _chunks(documents):
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            yield _Encoded(ids, len(text.encode("utf-8")))


def _chunks(documents: TextDocuments) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in documents:
        chunk.append(text)
        size += len(text)
        # Large chunks keep all threads of the tokenizer busy.
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
