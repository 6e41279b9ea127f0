"""From the name of a text to the batches of a run: one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lostjax.data.cache import hash_parts
from lostjax.data.rows.batches import BatchPlan, EvalPlan
from lostjax.data.rows.packing import Rows, pack_documents
from lostjax.data.text.corpus import Corpus, open_corpus
from lostjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from lostjax.errors import DataError


@dataclass(frozen=True)
class Data:
    """What a run trains on and is judged by."""

    train: BatchPlan
    heldout: EvalPlan
    tokenizer: Tokenizer
    corpus: Corpus

    @property
    def vocab_size(self) -> int:
        """Ids lie in [0, vocab_size)."""
        return self.tokenizer.vocab_size

    @property
    def train_tokens(self) -> int:
        """Targets in one pass over the training text."""
        return sum(rows.n_predicted for rows in self.train.sources)

    @property
    def train_bytes(self) -> int:
        """UTF-8 bytes of the training text."""
        return sum(rows.n_bytes for rows in self.train.sources)

    @property
    def heldout_tokens(self) -> int:
        """Targets of the held-out text, boundaries among them."""
        return self.heldout.n_predicted

    @property
    def heldout_bytes(self) -> int:
        """UTF-8 bytes of the held-out text."""
        return self.heldout.n_bytes

    @property
    def identity(self) -> dict[str, int | str]:
        """What tells this text and its tokens from others: sizes, and hashes of both.

        Equal identities give equal batches, wherever the text lies.
        """

        def hash_rows(plan: BatchPlan | EvalPlan) -> str:
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
    """Open a text, tokenise and pack it once, and plan its batches.

    The first call for a text takes seconds; the next finds tokenizer and tokens in the
    cache and only hashes the text.

    Args:
      source: where the text is; see `lostjax.data.text.sources`.
      heldout: auto, a fraction, or another source; see `open_corpus`.
      tokenizer: bpe:SIZE, bytes, or a file; see `lostjax.data.tokenizers.tokenizer`.
      seq_len: tokens in a row.
      batch_size: rows in a batch.
      seed: decides the order of the rows.
      cache_dir: default ~/.cache/lostjax.

    Raises:
      DataError: what is wrong, in one line.

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
        raise DataError(f"{name}: there is no text in it")
    if rows.n_predicted < rows.seq_len:
        raise DataError(
            f"{name}: too short, its {rows.n_predicted} training tokens are fewer than "
            f"a row of {rows.seq_len}; give more text or a smaller --data.seq_len"
        )


def _not_empty(rows: Sequence[Rows], source: str) -> list[Rows]:
    some = [part for part in rows if part.n_documents]
    if not some:
        raise DataError(
            f"{source}: no text is held out; give more of it, a larger --data.heldout "
            "fraction, or a held-out source"
        )
    return some
