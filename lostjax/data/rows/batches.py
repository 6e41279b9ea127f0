"""Batches of rows as a pure function of (rows, seed, step).

Rows of the global order are numbered i = step B + b. For row i the mixture determines
the source and the number j of earlier rows from that source. Then

    epoch, k = divmod(j, n_rows)      row = permutation(seed, source, epoch)[k]

The index shuffle computes one element of a random permutation at a time. Every row of a
source occurs exactly once per epoch, batches may span epochs, any part of a batch can
be computed alone, and there is no iterator state to save.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
import xxhash

from lostjax.data.rows.mixture import Interleave
from lostjax.data.rows.shuffle import shuffle_index
from lostjax.data.rows.stream import RowArrays, Rows
from lostjax.errors import DataError
from lostjax.typing import Batch, Int


class BatchPlan:
    """The batches of a training run."""

    def __init__(
        self,
        rows: Rows | Sequence[Rows],
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[Fraction | float | int] | None = None,
    ) -> None:
        """Plan the order of the rows.

        Args:
          rows: one source, or several with equal row length.
          batch_size: rows per batch, at least 1.
          seed: any integer; the order depends on nothing else.
          weights: share of each source in the rows; equal if None.

        Raises:
          DataError: if there are no rows, the row lengths differ, the batch size is
            below 1, or the weights are invalid.
        """
        self.sources = _check(rows, batch_size=batch_size)
        self.batch_size = batch_size
        self.seed = seed
        shares = [Fraction(1)] * len(self.sources) if weights is None else weights
        if len(shares) != len(self.sources):
            raise DataError(
                f"weights: got {len(shares)} for {len(self.sources)} sources"
            )
        self._interleave = Interleave(shares)

    @property
    def n_rows(self) -> int:
        """Number of rows of all sources; `example_B` lies in [-1, n_rows)."""
        return sum(rows.n_rows for rows in self.sources)

    def batch_at(self, step: int, *, rows: slice = slice(None)) -> Batch:
        """Return the batch of a step, or some of its rows.

        Args:
          step: number of the step, at least 0, without upper bound.
          rows: slice of rows to return; they equal that slice of the whole batch.

        Returns:
          The batch, as NumPy arrays.

        Raises:
          ValueError: if the step is negative.
        """
        if step < 0:
            raise ValueError(f"step: {step} must be at least 0")
        index_B = (step * self.batch_size + np.arange(self.batch_size))[rows]
        source_B, before_B = self._interleave.locate(index_B)
        sizes = np.array([part.n_rows for part in self.sources])
        epoch_B, k_B = np.divmod(before_B, sizes[source_B])
        row_B = np.empty(index_B.size, np.int64)
        for source, part in enumerate(self.sources):
            mine = source_B == source
            places = zip(epoch_B[mine].tolist(), k_B[mine].tolist(), strict=True)
            row_B[mine] = self._shuffle(places, part.n_rows, source)
        return _gather(self.sources, source_B, row_B, epoch_B)

    def count_epochs(self, steps: int) -> list[float]:
        """Return how many passes over each source the first `steps` batches make."""
        counts = self._interleave.counts(steps * self.batch_size)
        return [
            float(count / part.n_rows)
            for count, part in zip(counts, self.sources, strict=True)
        ]

    def _shuffle(
        self, places: Iterable[tuple[int, int]], n_rows: int, source: int
    ) -> list[int]:
        shuffled = []
        for epoch, k in places:
            # A hash of text: independent permutations for each epoch, equal on every
            # platform.
            seed = xxhash.xxh32_intdigest(f"{self.seed} {source} {epoch}".encode())
            shuffled.append(shuffle_index(k, size=n_rows, seed=seed))
        return shuffled


class EvalPlan:
    """Batches with every row of a text once, in order; the last batch is padded."""

    def __init__(self, rows: Rows | Sequence[Rows], *, batch_size: int) -> None:
        """Plan the batches.

        Args:
          rows: one source, or several with equal row length.
          batch_size: rows per batch, at least 1.

        Raises:
          DataError: if there are no rows, the row lengths differ, or the batch size is
            below 1.
        """
        self.sources = _check(rows, batch_size=batch_size)
        self.batch_size = batch_size

    @property
    def n_rows(self) -> int:
        """Number of rows of all sources."""
        return sum(rows.n_rows for rows in self.sources)

    @property
    def n_batches(self) -> int:
        """Number of batches that contain all rows."""
        return -(-self.n_rows // self.batch_size)

    @property
    def n_predicted(self) -> int:
        """Number of targets of weight 1 in all batches."""
        return sum(rows.n_predicted for rows in self.sources)

    @property
    def n_bytes(self) -> int:
        """Number of UTF-8 bytes of the text."""
        return sum(rows.n_bytes for rows in self.sources)

    def batch_at(self, index: int, *, rows: slice = slice(None)) -> Batch:
        """Return a batch, or some of its rows.

        Args:
          index: in [0, n_batches).
          rows: slice of rows to return; they equal that slice of the whole batch.

        Returns:
          The batch, as NumPy arrays.

        Raises:
          ValueError: if the index is out of range.
        """
        if not 0 <= index < self.n_batches:
            raise ValueError(f"index: {index} must lie in [0, {self.n_batches})")
        index_B = (index * self.batch_size + np.arange(self.batch_size))[rows]
        real_B = index_B < self.n_rows
        source_B = np.searchsorted(self._ends, index_B, side="right")
        # searchsorted returns an invalid source past the end: any valid one serves
        # padding.
        source_B = np.where(real_B, source_B, 0)
        # A row's number within its source: subtract the rows of the sources before it.
        row_B = index_B - np.concatenate([[0], self._ends])[source_B]
        row_B = np.where(real_B, row_B, -1)
        return _gather(self.sources, source_B, row_B, np.zeros_like(row_B))

    @cached_property
    def _ends(self) -> Int[np.ndarray, " S"]:
        return np.cumsum([rows.n_rows for rows in self.sources])


def _check(rows: Rows | Sequence[Rows], *, batch_size: int) -> tuple[Rows, ...]:
    sources = (rows,) if isinstance(rows, Rows) else tuple(rows)
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size} must be at least 1")
    if not sources or not all(source.n_rows for source in sources):
        raise DataError("rows: a source holds no tokens")
    # One compiled step serves one row length.
    lengths = {source.seq_len for source in sources}
    if len(lengths) > 1:
        raise DataError(f"rows: row lengths differ: {sorted(lengths)}")
    return sources


def _gather(
    sources: tuple[Rows, ...],
    source_B: Int[np.ndarray, " B"],
    row_B: Int[np.ndarray, " B"],
    epoch_B: Int[np.ndarray, " B"],
) -> Batch:
    # Offsets that make row numbers unique over all sources.
    firsts = np.cumsum([0, *(rows.n_rows for rows in sources)])
    example_B = np.where(row_B < 0, -1, firsts[source_B] + row_B).astype(np.int32)
    epoch_B = epoch_B.astype(np.int32)
    if len(sources) == 1:
        return Batch(*sources[0].take(row_B), example_B, epoch_B)
    parts = [rows.take(row_B[source_B == i]) for i, rows in enumerate(sources)]
    # Rows are read grouped by source; the argsort of the argsort is the inverse
    # permutation, which restores the order of the batch.
    order_B = np.argsort(np.argsort(source_B, kind="stable"), kind="stable")
    whole = RowArrays._make(
        np.concatenate(leaves)[order_B] for leaves in zip(*parts, strict=True)
    )
    return Batch(*whole, example_B, epoch_B)
