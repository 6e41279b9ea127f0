"""SentencePiece models as tokenizers; needs the extra `sentencepiece`.

Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer
and detokenizer for Neural Text Processing", 2018, arXiv:1808.06226.

Most models normalise text (spaces, compatibility forms), so decoding returns normalised
text. Bits per byte still count the bytes of the original text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lostjax.data.cache import hash_parts
from lostjax.errors import DataError, first_line


class SentencePieceTokenizer:
    """A tokenizer from a SentencePiece .model file."""

    def __init__(self, path: Path) -> None:
        """Load the model.

        Args:
          path: the .model file.

        Raises:
          DataError: if the package is missing, the file is broken, or the model has no
            end-of-text token.
        """
        try:
            import sentencepiece
        except ImportError as error:
            raise DataError(
                f"{path}: needs the package sentencepiece; "
                "pip install 'lostjax[sentencepiece]'"
            ) from error
        try:
            self._bytes = path.read_bytes()
            self._inner = sentencepiece.SentencePieceProcessor(model_proto=self._bytes)
        except Exception as error:
            raise DataError(
                f"{path}: not a SentencePiece model: {first_line(error)}"
            ) from error
        self.vocab_size = int(self._inner.vocab_size())
        self.eos_id = int(self._inner.eos_id())
        if self.eos_id < 0:
            raise DataError(f"{path}: the model has no end-of-text token (eos)")
        self.fingerprint = hash_parts("sentencepiece", self._bytes)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Encode texts, without end-of-text tokens."""
        return [np.asarray(self._inner.encode(text), np.uint32) for text in texts]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode ids; end-of-text tokens are dropped."""
        kept = [int(one) for one in ids if int(one) != self.eos_id]
        return str(self._inner.decode(kept))

    def save(self, path: Path) -> Path:
        """Write the .model file."""
        path = path.with_suffix(".model")
        path.write_bytes(self._bytes)
        return path
