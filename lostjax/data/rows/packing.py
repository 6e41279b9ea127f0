"""Pack documents into one stream of tokens, kept on disk, and read it as rows.

Documents t, u, ... become one stream with the end-of-text token e before each of them
and after the last,

    e t1 .. tn e u1 .. um e

of which all but the last token are inputs and all but the first are targets: every
token and every boundary is predicted exactly once, the first token of a document from
e alone. Row r holds the stream from r T to (r + 1) T; the rest of the last row has
weight 0. A document that a row cuts starts anew there: its position is 0 again.

Only the stream is stored (2 bytes a token up to a vocabulary of 65,536), memory-mapped,
and the same for every row length. Segments and positions follow from where e stands.
It is read once on opening, against the hash beside it: see `data.cache`.
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
    """Some rows of a stream."""

    tokens_BT: Int[np.ndarray, "B T"]
    targets_BT: Int[np.ndarray, "B T"]
    weights_BT: Float[np.ndarray, "B T"]
    segments_BT: Int[np.ndarray, "B T"]
    positions_BT: Int[np.ndarray, "B T"]


@dataclass(frozen=True)
class Rows:
    """A stream of tokens, read as rows of `seq_len`."""

    stream: NDArray[np.unsignedinteger]
    """The tokens, end-of-text tokens between and around the documents."""
    seq_len: int
    vocab_size: int
    eos_id: int
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of the documents."""
    content_hash: str
    """Changes with the text, the tokenizer or the row length: names what the stream
    was made of. That it is that stream still is what the cache checks."""

    @property
    def n_predicted(self) -> int:
        """Targets of weight 1: the documents' tokens and one boundary each."""
        return self.stream.size - 1

    @property
    def n_rows(self) -> int:
        """Rows, the last of them perhaps in part padding."""
        return -(-self.n_predicted // self.seq_len)

    def take(self, rows: Int[np.ndarray, " B"]) -> RowArrays:
        """Read rows.

        Args:
          rows: their numbers in [0, n_rows); -1 gives a row of padding.

        Returns:
          The rows, in that order.
        """
        time = np.arange(self.seq_len + 1)
        at_BS = rows[:, None].astype(np.int64) * self.seq_len + time
        real_BT = (at_BS[:, :-1] < self.n_predicted) & (rows[:, None] >= 0)
        stream_BS = self.stream[np.clip(at_BS, 0, self.n_predicted)].astype(np.int32)
        tokens_BT = np.where(real_BT, stream_BS[:, :-1], self.eos_id)
        starts_BT = (tokens_BT == self.eos_id) & real_BT
        starts_BT[:, 0] = True
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
    """Tokenise and pack documents, or find what was packed before.

    Args:
      documents: text, or files of token ids that `tokenizer` made.
      tokenizer: what encodes them.
      seq_len: tokens in a row, at least 1.
      cache_dir: default ~/.cache/lostjax.

    Returns:
      The rows, memory-mapped. Possibly none, where there are no documents.

    Raises:
      DataError: a document that cannot be read, an id outside the vocabulary, a
        cache that cannot be written.
    """
    if seq_len < 1:
        raise DataError(f"seq_len: {seq_len} must be at least 1")
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)
    key = hash_parts("stream 1", documents.fingerprint, tokenizer.fingerprint)
    place = cached(
        root / "tokens" / key, lambda path: _write(path, documents, tokenizer)
    )
    try:
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
    """Join the streams of several sources, with one end-of-text token between them."""
    tails = [part.stream[1:] for part in rows[1:]]
    return np.concatenate([rows[0].stream, *tails])


class _Encoded(NamedTuple):
    tokens: NDArray[np.integer]
    n_bytes: int


def _write(
    path: Path, documents: TextDocuments | TokenFiles, tokenizer: Tokenizer
) -> None:
    """Write a stream as it comes, so that the text may be larger than memory."""
    path.mkdir()
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
        # The header has room for any length: rewriting it moves nothing.
        file.seek(0)
        _write_header(file, dtype, size)
    counts = {"documents": n_documents, "bytes": n_bytes}
    (path / "counts.json").write_text(json.dumps(counts))


def _write_header(file: BinaryIO, dtype: np.dtype[np.unsignedinteger], n: int) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, header)


def _encode(
    documents: TextDocuments | TokenFiles, tokenizer: Tokenizer
) -> Iterator[_Encoded]:
    if isinstance(documents, TokenFiles):
        eos_id, vocab_size = tokenizer.eos_id, tokenizer.vocab_size
        for ids in documents.documents(eos_id=eos_id, vocab_size=vocab_size):
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
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
