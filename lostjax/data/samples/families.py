"""Splits that keep variants of one thing together."""

from collections.abc import Sequence

import numpy as np


def split_families(
    families: Sequence[str], *, shares: Sequence[float], seed: int, most: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Split rows into parts, each family whole in one of them.

    Args:
      families: the family of each row.
      shares: of the families, for each part but the last, which has the rest; positive,
        with a sum below 1.
      seed: not negative; draws the families of each part, and their rows.
      most: rows of one family that are used, at least 1; the others are in no part.

    Returns:
      For each part its families, and for each of these its rows, both in drawn order:
      the first families of a part are a smaller part of the same kind.

    Raises:
      ValueError: a number lies outside its range.
    """
    if not shares or min(shares) <= 0 or sum(shares) >= 1:
        raise ValueError(f"shares={shares}: must be positive, with a sum below 1")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or positive")
    if most < 1:
        raise ValueError(f"most={most}: must be at least 1")
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for row in rng.permutation(len(families)):
        members.setdefault(families[row], []).append(int(row))
    names = sorted(members)
    drawn = [tuple(members[names[i]][:most]) for i in rng.permutation(len(names))]
    ends = [round(share * len(drawn)) for share in np.cumsum(shares)]
    starts = [0, *ends]
    return tuple(
        tuple(drawn[start:end])
        for start, end in zip(starts, [*ends, len(drawn)], strict=True)
    )
