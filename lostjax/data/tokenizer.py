"""Tokenizers: text to ids and back, each id below `vocab_size`.

    bpe:SIZE          byte-level BPE of SIZE tokens, trained on the training text
    bytes             UTF-8 bytes, and end of text as 256
    FILE.json         a tokenizer.json of the `tokenizers` library
    FILE.model        a SentencePiece model (extra `sentencepiece`)

Text never encodes to the end-of-text token, whatever is written in it: that token
marks where documents end, and only the packing puts it there. Byte-level tokenizers
give back exactly the text that they encoded.

Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
Units", 2016 (arXiv:1508.07909); over bytes as in Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from lostjax.data.cache import cached, default_cache_dir, hash_parts
from lostjax.data.documents import Chain, GivenDocuments, TextDocuments
from lostjax.data.errors import DataError, first_line, nearest_hint

EOS = "<|endoftext|>"
"""The end-of-text token of the tokenizers that are made here."""

_EOS_NAMES = (EOS, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
_LONG = 1 << 20
# Where byte-level pre-tokenisation always cuts: before a newline that ends a line.
_LINE_END = re.compile(r"(?<=\S)(?=\n)")


@runtime_checkable
class Tokenizer(Protocol):
    """What turns documents into ids and back."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""

    @property
    def eos_id(self) -> int:
        """The id of the end-of-text token."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that the encoding depends on."""

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts, without end-of-text tokens."""

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; end-of-text tokens give nothing."""

    def save(self, path: Path) -> Path:
        """Write a file that `load_tokenizer` reads.

        Args:
          path: its name; the right suffix replaces the one it has.

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
      documents: the training text, for bpe:SIZE; its tokenizer is kept under
        `cache_dir` by the hash of the text and read from there the next time.
      cache_dir: default ~/.cache/lostjax.

    Raises:
      DataError: an unknown spec, a missing or broken file, no text to train on.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec.startswith("bpe:"):
        size = _parse_size(spec)
        if documents is None:
            raise DataError(f"tokenizer {spec}: needs text to be trained on")
        return _train_cached(size, _as_documents(documents), cache_dir)
    path = Path(spec).expanduser()
    if not path.is_file():
        hint = nearest_hint(spec, ["bpe:4096", "bytes"])
        raise DataError(
            f"tokenizer {spec!r}: must be bpe:SIZE, bytes, or an existing "
            f"tokenizer.json or SentencePiece .model file{hint}"
        )
    if path.suffix == ".model":
        from lostjax.data.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    return BpeTokenizer(_read_json(path))


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, end of text as 256."""

    vocab_size = 257
    eos_id = 256
    fingerprint = "bytes"

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts as their UTF-8 bytes."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; bytes that are no UTF-8 become U+FFFD."""
        array = np.asarray(ids, np.int64)
        return array[array < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def save(self, path: Path) -> Path:
        """Write the byte-level BPE without merges, which gives the same ids."""
        path = path.with_suffix(".json")
        symbols = _byte_symbols()
        vocab = {symbol: byte for byte, symbol in enumerate(symbols)}
        inner = _byte_level(models.BPE(vocab=vocab, merges=[]))
        inner.add_special_tokens([EOS])
        inner.save(str(path))
        return path


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, inner: HuggingFaceTokenizer) -> None:
        """Wrap a tokenizer.

        Raises:
          DataError: where it has no end-of-text token.
        """
        vocab = inner.get_vocab(with_added_tokens=True)
        eos = next((name for name in _EOS_NAMES if name in vocab), None)
        if eos is None:
            raise DataError(
                f"tokenizer: has none of the end-of-text tokens {', '.join(_EOS_NAMES)}"
            )
        self.fingerprint = hash_parts("tokenizers", inner.to_str())
        # Special, so that text which spells it is encoded as text.
        inner.add_special_tokens([AddedToken(eos, special=True, normalized=False)])
        inner.encode_special_tokens = True
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.eos_id: int = vocab[eos]
        # Ids may have gaps: a table of logits needs room up to the largest.
        self.vocab_size = max(vocab.values()) + 1
        kind = inner.pre_tokenizer
        self._splits = (
            inner.normalizer is None
            and isinstance(kind, pre_tokenizers.ByteLevel)
            and kind.use_regex
            and not kind.add_prefix_space
        )

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts; long ones in pieces, several at a time."""
        pieces = [self._pieces(text) for text in texts]
        encoded = self._inner.encode_batch_fast(
            [piece for parts in pieces for piece in parts], add_special_tokens=False
        )
        ids = (np.asarray(one.ids, np.uint32) for one in encoded)
        return [
            np.concatenate([next(ids) for _ in parts] or [np.empty(0, np.uint32)])
            for parts in pieces
        ]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; end-of-text tokens give nothing."""
        kept = [int(one) for one in ids if int(one) != self.eos_id]
        return str(self._inner.decode(kept, skip_special_tokens=False))

    def save(self, path: Path) -> Path:
        """Write a tokenizer.json."""
        path = path.with_suffix(".json")
        self._inner.save(str(path))
        return path

    def _pieces(self, text: str) -> list[str]:
        if not self._splits or len(text) < _LONG:
            return [text]
        cuts = [0]
        while cuts[-1] + _LONG < len(text):
            match = _LINE_END.search(text, cuts[-1] + _LONG)
            cuts.append(match.start() if match else len(text))
        if cuts[-1] < len(text):
            cuts.append(len(text))
        return [text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> Path:
    """Write DIRECTORY/tokenizer.json, or .model for SentencePiece.

    Returns:
      The path that was written.
    """
    return tokenizer.save(Path(directory) / "tokenizer.json")


def load_saved_tokenizer(directory: str | Path) -> Tokenizer:
    """Load what `save_tokenizer` wrote into a directory.

    Raises:
      DataError: where there is none.
    """
    for name in ("tokenizer.json", "tokenizer.model"):
        if (Path(directory) / name).is_file():
            return load_tokenizer(str(Path(directory) / name))
    raise DataError(f"{directory}: holds no tokenizer.json or tokenizer.model")


def _parse_size(spec: str) -> int:
    text = spec.removeprefix("bpe:")
    if not text.isascii() or not text.isdigit() or not 257 <= int(text) <= 1 << 20:
        raise DataError(
            f"tokenizer {spec!r}: SIZE of bpe:SIZE must be an integer from 257 "
            "(all bytes and end of text) to 1048576, as bpe:4096"
        )
    return int(text)


def _as_documents(documents: Iterable[str]) -> TextDocuments:
    if isinstance(documents, TextDocuments):
        return documents
    return GivenDocuments(tuple(documents))


def _train_cached(
    size: int, documents: TextDocuments, cache_dir: str | Path | None
) -> Tokenizer:
    if isinstance(documents, Chain) and not documents.parts:
        raise DataError(
            f"tokenizer bpe:{size}: the source is tokenised already; give the "
            "tokenizer that made it (a tokenizer.json or .model file, or bytes)"
        )
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)
    name = hash_parts("bpe", str(size), documents.fingerprint)

    def make(path: Path) -> None:
        _train(size, documents).save(str(path))

    file = cached(root / "tokenizers" / f"bpe-{size}-{name}.json", make)
    return BpeTokenizer(_read_json(file))


def _train(size: int, documents: TextDocuments) -> HuggingFaceTokenizer:
    inner = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=_byte_symbols(),
        show_progress=False,
    )
    inner.train_from_iterator(_some(documents), trainer)
    return inner


def _some(documents: TextDocuments) -> Iterator[str]:
    empty = True
    for text in documents:
        empty = False
        yield text
    if empty:
        raise DataError("tokenizer: there is no text to train it on")


def _byte_level(model: models.BPE) -> HuggingFaceTokenizer:
    inner = HuggingFaceTokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _byte_symbols() -> list[str]:
    """Give the printable symbol of each byte, in order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable}
    table |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def _read_json(path: Path) -> HuggingFaceTokenizer:
    try:
        return HuggingFaceTokenizer.from_file(str(path))
    # The library raises plain Exception for whatever is wrong with a file.
    except Exception as error:
        raise DataError(f"{path}: not a tokenizer.json: {first_line(error)}") from error
