"""A tokenizer of UTF-8 bytes: 257 ids, no training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models

from lostjax.data.tokenizers.bpe import EOS, BpeTokenizer, byte_level, byte_symbols


class ByteTokenizer:
    """Encodes UTF-8 bytes as ids 0 to 255; end of text is 256."""

    vocab_size = 257
    eos_id = 256
    fingerprint = "bytes"

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode each text as its UTF-8 bytes."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; bytes that are not valid UTF-8 become U+FFFD."""
        array = np.asarray(ids, np.int64)
        # End of text (256) and any larger id are not bytes.
        return array[array < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def save(self, path: Path) -> Path:
        """Write an equivalent byte-level BPE without merges, which has the same ids."""
        path = path.with_suffix(".json")
        path.write_text(_bytes_as_bpe().to_str(pretty=True), encoding="utf-8")
        return path


def is_byte_tokenizer(tokenizer: BpeTokenizer) -> bool:
    """Return whether a tokenizer is the one that `ByteTokenizer.save` writes."""
    return tokenizer.fingerprint == BpeTokenizer(_bytes_as_bpe()).fingerprint


def _bytes_as_bpe() -> HuggingFaceTokenizer:
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    inner = byte_level(models.BPE(vocab=vocab, merges=[]))
    inner.add_special_tokens([EOS])
    return inner
