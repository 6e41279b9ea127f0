"""Tokenizers: text to ids and back; ids lie in [0, vocab_size).

    bpe:SIZE          byte-level BPE of SIZE tokens, trained on the training text
    bytes             UTF-8 bytes; end of text is 256
    FILE.json         a tokenizer.json of the `tokenizers` library
    FILE.model        a SentencePiece model (extra `sentencepiece`)

No text encodes to the end-of-text token, even if it contains the token's spelling: the
token marks the ends of documents, and only the packing inserts it. Byte-level
tokenizers decode to exactly the text that they encoded.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lostjax.data.cache import (
    cached,
    default_cache_dir,
    hash_parts,
    temporary_directory,
)
from lostjax.data.text.documents import Chain, GivenDocuments, TextDocuments
from lostjax.data.tokenizers.bpe import read_tokenizer_json, train_bpe
from lostjax.data.tokenizers.byte import ByteTokenizer, is_byte_tokenizer
from lostjax.disk.files import keep_aside
from lostjax.disk.seal import fits_hash_beside, hash_file_of, write_with_hash
from lostjax.errors import DataError, nearest_hint
from lostjax.numerals import read_whole


@runtime_checkable
class Tokenizer(Protocol):
    """Encodes documents as ids and decodes ids to text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def eos_id(self) -> int:
        """Id of the end-of-text token."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the encoding depends on."""

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts, without end-of-text tokens."""

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; end-of-text tokens are dropped."""

    def save(self, path: Path) -> Path:
        """Write a file that `load_tokenizer` can read.

        Args:
          path: path of the file; its suffix is replaced by the right one.

        Returns:
          The path that was written.
        """


def load_tokenizer(
    spec: str,
    documents: Iterable[str] | None = None,
    *,
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Load or train a tokenizer.

    Args:
      spec: bpe:SIZE with SIZE >= 257, bytes, or a file (see the module).
      documents: training text for bpe:SIZE. The trained tokenizer is cached by the hash
        of this text.
      cache_dir: directory of the cache; default ~/.cache/lostjax.

    Returns:
      The tokenizer.

    Raises:
      DataError: if the spec is unknown, a file is missing or broken, or there is no
        text to train on.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec.startswith("bpe:"):
        size = _parse_size(spec)
        if documents is None:
            raise DataError(f"tokenizer {spec}: needs text to train on")
        return _train_cached(size, _as_documents(documents), cache_dir)
    path = Path(os.path.expanduser(spec))  # of no such user: as it is
    if not os.path.isfile(path):
        hint = nearest_hint(spec, ["bpe:4096", "bytes"])
        raise DataError(
            f"tokenizer {spec!r}: must be bpe:SIZE, bytes, or an existing "
            f"tokenizer.json or SentencePiece .model file{hint}"
        )
    _check_hash(path)
    if path.suffix == ".model":
        from lostjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    found = read_tokenizer_json(path)
    return ByteTokenizer() if is_byte_tokenizer(found) else found


def count_tokens(spec: str) -> int:
    """Return the vocabulary size of a tokenizer without training it.

    For bpe:SIZE this is SIZE.

    Args:
      spec: see `load_tokenizer`.

    Raises:
      DataError: if the spec is unknown, or a file is missing or broken.
    """
    if spec.startswith("bpe:"):
        return _parse_size(spec)
    return load_tokenizer(spec).vocab_size


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> Path:
    """Write DIRECTORY/tokenizer.json, or .model for SentencePiece, and its hash.

    A file that is damaged, by its hash, is kept as NAME.damaged, with a line on
    standard error.

    Args:
      tokenizer: the tokenizer.
      directory: existing directory.

    Returns:
      The path that was written.

    Raises:
      OSError: if the file cannot be written; an existing file stays unchanged.
    """
    with temporary_directory(Path(directory)) as aside:
        fresh = tokenizer.save(aside / "tokenizer.json")
        path, content = Path(directory) / fresh.name, fresh.read_bytes()
    if path.exists():
        fits = fits_hash_beside(path)
        if fits and path.read_bytes() == content:
            return path
        if fits is False:
            kept = keep_aside(path)
            print(f"{path}: is damaged: kept as {kept}, written again", file=sys.stderr)
    write_with_hash(path, content)
    return path


def load_saved_tokenizer(directory: str | Path) -> Tokenizer:
    """Load the tokenizer that `save_tokenizer` wrote to a directory.

    Raises:
      DataError: if there is none.
    """
    return load_tokenizer(str(find_saved_tokenizer(directory)))


def find_saved_tokenizer(directory: str | Path) -> Path:
    """Find the file that `save_tokenizer` wrote to a directory.

    Raises:
      DataError: if there is none.
    """
    for name in ("tokenizer.json", "tokenizer.model"):
        if (Path(directory) / name).is_file():
            return Path(directory) / name
    raise DataError(f"{directory}: contains no tokenizer.json or tokenizer.model")


def _check_hash(path: Path) -> None:
    """Refuse a file that does not fit the hash beside it, if there is one."""
    try:
        fits = fits_hash_beside(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if fits is False:
        beside = hash_file_of(path)
        raise DataError(
            f"{path}: is damaged: it does not fit the hash in {beside.name}; restore "
            "it (resuming its run does), or remove that file if you changed it yourself"
        )


def _parse_size(spec: str) -> int:
    size = read_whole(spec.removeprefix("bpe:"), least=257, most=1 << 20)
    if size is None:
        shown = spec if len(spec) <= 40 else spec[:40] + "..."
        raise DataError(
            f"tokenizer {shown!r}: SIZE of bpe:SIZE must be an integer from 257 "
            "(all bytes and end of text) to 1048576, such as bpe:4096"
        )
    return size


def _as_documents(documents: Iterable[str]) -> TextDocuments:
    if isinstance(documents, TextDocuments):
        return documents
    return GivenDocuments(tuple(documents))


def _train_cached(
    size: int, documents: TextDocuments, cache_dir: str | Path | None
) -> Tokenizer:
    if isinstance(documents, Chain) and not documents.parts:
        raise DataError(
            f"tokenizer bpe:{size}: the source is already tokenised; pass the "
            "tokenizer that produced it (a tokenizer.json or .model file, or bytes)"
        )
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)
    name = hash_parts("bpe", str(size), documents.fingerprint)

    def make(path: Path) -> None:
        trained = train_bpe(size, documents)
        documents.check_unchanged()  # the name hashes the text as it was before
        trained.save(path)

    # Read back even after training: a cached tokenizer and a fresh one are the same
    # file.
    file = cached(root / "tokenizers" / f"bpe-{size}-{name}.json", make)
    return read_tokenizer_json(file)
