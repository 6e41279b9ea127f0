"""Byte-level byte-pair encoding, and any other tokenizer.json.

Training starts from the 256 bytes and repeatedly merges the most frequent pair of
neighbours within a word into a new token. Any text can be encoded and is decoded
exactly.

Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
Units", 2016, arXiv:1508.07909; over bytes as in Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019. The `tokenizers` library does the work: for 12
MB of text, learning 4,096 tokens takes about 3 seconds, and encoding 3 seconds, on two
cores.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from lostjax.data.cache import hash_parts
from lostjax.data.tokenizers.panics import refusing_panics
from lostjax.errors import DataError, first_line

EOS = "<|endoftext|>"
"""End-of-text token of the tokenizers that are trained here."""

_EOS_NAMES = (EOS, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
_LONG = 1 << 20
_ROOM = 16
_LEAST_ROOM = 1 << 16
"""Limit on gaps: ids must be below _ROOM per token, or below _LEAST_ROOM."""
# Byte-level pre-tokenisation always cuts before a newline that ends a line: splitting a
# text there does not change its tokens.
_LINE_END = re.compile(r"(?<=\S)(?=\n)")


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, inner: HuggingFaceTokenizer, *, name: str = "tokenizer") -> None:
        """Wrap a tokenizer of the library.

        Args:
          inner: the library's tokenizer; modified so that the spelling of special
            tokens is encoded as text.
          name: name of the tokenizer in error messages.

        Raises:
          DataError: if it has no end-of-text token.
        """
        vocab = inner.get_vocab(with_added_tokens=True)
        eos = next((name for name in _EOS_NAMES if name in vocab), None)
        if eos is None:
            raise DataError(
                f"{name}: has none of the end-of-text tokens {', '.join(_EOS_NAMES)}"
            )
        # Hash before changing `inner`: the hash then depends on the file alone.
        self.fingerprint = hash_parts("tokenizers", inner.to_str())
        # Special, so that text that contains its spelling is encoded as text.
        inner.add_special_tokens([AddedToken(eos, special=True, normalized=False)])
        inner.encode_special_tokens = True
        # A tokenizer.json may pad or cut texts, which would change the corpus.
        inner.no_padding()
        inner.no_truncation()
        self._inner, self._name = inner, name
        self.eos_id: int = vocab[eos]
        # Ids may have gaps: a table of logits needs room up to the largest id.
        self.vocab_size = max(vocab.values()) + 1
        kind = inner.pre_tokenizer
        self._splits = (
            inner.normalizer is None
            and isinstance(kind, pre_tokenizers.ByteLevel)
            and kind.use_regex
            and not kind.add_prefix_space
        )

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts; long texts are split and encoded in parallel.

        Raises:
          DataError: if a rule of the tokenizer fails on a text.
        """
        pieces = [self._pieces(text) for text in texts]
        with self._refusing_panics():
            encoded = self._inner.encode_batch_fast(
                [piece for parts in pieces for piece in parts], add_special_tokens=False
            )
        ids = (np.asarray(one.ids, np.uint32) for one in encoded)
        return [
            np.concatenate([next(ids) for _ in parts] or [np.empty(0, np.uint32)])
            for parts in pieces
        ]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; end-of-text tokens are dropped."""
        kept = [int(one) for one in ids if int(one) != self.eos_id]
        with self._refusing_panics():
            return str(self._inner.decode(kept, skip_special_tokens=False))

    def save(self, path: Path) -> Path:
        """Write a tokenizer.json."""
        path = path.with_suffix(".json")
        path.write_text(self._inner.to_str(pretty=True), encoding="utf-8")
        return path

    def _refusing_panics(self) -> AbstractContextManager[None]:
        # Rules of our own have nothing to panic about: standard error stays as it is.
        return nullcontext() if self._splits else refusing_panics(self._name)

    def _pieces(self, text: str) -> list[str]:
        if not self._splits or len(text) < _LONG:
            return [text]
        cuts = [0]
        # Pieces of about 1 MiB: the library parallelises over texts, not within one.
        while cuts[-1] + _LONG < len(text):
            match = _LINE_END.search(text, cuts[-1] + _LONG)
            cuts.append(match.start() if match else len(text))
        if cuts[-1] < len(text):
            cuts.append(len(text))
        return [text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def train_bpe(size: int, documents: Iterable[str]) -> BpeTokenizer:
    """Train a byte-level BPE; the same text always yields the same tokenizer.

    Args:
      size: number of tokens, including the 256 bytes and end of text.
      documents: the training text.

    Returns:
      The tokenizer.

    Raises:
      DataError: if there is no text.
    """
    inner = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=byte_symbols(),
        show_progress=False,
    )
    inner.train_from_iterator(_some(documents), trainer)
    return BpeTokenizer(inner)


def byte_level(model: models.BPE) -> HuggingFaceTokenizer:
    """Build a tokenizer that reads and writes bytes, for any merges of them."""
    inner = HuggingFaceTokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def byte_symbols() -> list[str]:
    """Return the printable symbols of all bytes, in order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable}
    # GPT-2's table: bytes without a printable symbol are mapped to 256 and above.
    table |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def read_tokenizer_json(path: Path) -> BpeTokenizer:
    """Read a tokenizer.json.

    The ids are checked first, because the library allocates tables up to the largest id
    and aborts the process if there is not enough memory. The library then receives the
    parsed values instead of the file, because a file can contain a key twice.

    Args:
      path: the file.

    Returns:
      The tokenizer.

    Raises:
      DataError: if the file is not a tokenizer.json, has no end-of-text token, or has
        ids far above its number of tokens.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a tokenizer.json: {first_line(error)}") from error
    ids = _find_ids(values)
    if ids and max(ids) >= (most := max(_LEAST_ROOM, _ROOM * len(ids))):
        raise DataError(
            f"{path}: id {max(ids)} is too large: for {len(ids)} tokens ids must be "
            f"below {most}"
        )
    try:
        with refusing_panics(str(path)):
            inner = HuggingFaceTokenizer.from_str(json.dumps(values))
    except DataError:
        raise
    # The library raises plain Exception for every fault of a file.
    except Exception as error:
        raise DataError(f"{path}: not a tokenizer.json: {first_line(error)}") from error
    return BpeTokenizer(inner, name=str(path))


def _find_ids(values: Any) -> list[int]:
    """List the ids of a tokenizer.json, even if other parts of it are wrong."""

    def look(owner: Any, name: str) -> Any:
        return owner.get(name) if isinstance(owner, dict) else None

    vocabulary = look(look(values, "model"), "vocab")
    added = look(values, "added_tokens")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):  # tokens in the order of their ids
        ids = list(range(len(vocabulary)))
    if isinstance(added, list):
        ids += [look(token, "id") for token in added]
    return [number for number in ids if isinstance(number, int)]


def _some(documents: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in documents:
        empty = False
        yield text
    if empty:
        raise DataError("tokenizer: there is no text to train on")
