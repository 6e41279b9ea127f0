"""Pack documents into one stream of tokens, and cache it on disk.

    e t1 .. tn e u1 .. um e          documents t, u, ..; e: end-of-text

Only the stream is stored: 2 bytes per token up to a vocabulary of 65,536, and
independent of the row length. `rows.stream` reads it as rows, from the disk.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lostjax.data.cache import cached, default_cache_dir, hash_parts
from lostjax.data.rows.stream import Rows
from lostjax.data.text.documents import TextDocuments
from lostjax.data.text.token_files import TokenFiles, open_tokens
from lostjax.data.tokenizers.tokenizer import Tokenizer
from lostjax.errors import DataError, first_line

_CHUNK_CHARACTERS = 1 << 22


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
      The rows, read from the disk; there are none if there are no documents.

    Raises:
      DataError: if a document cannot be read or changes while it is read, an id is
        outside the vocabulary, `seq_len` is below 1, or the cache cannot be written.
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
        stream = open_tokens(place / "tokens.npy")
        counts = json.loads((place / "counts.json").read_text())
    except (OSError, ValueError, DataError) as error:
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
    documents.check_unchanged()  # the entry's name hashes the text as it was before
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
        for stored in documents.documents(eos_id=eos_id, vocab_size=vocab_size):
            ids = np.asarray(stored)
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
