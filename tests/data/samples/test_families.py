"""Splits by family: whole, in proportion, capped, and nested."""

import numpy as np
import pytest

from lostjax.data.samples.families import split_families

FAMILIES = ["many"] * 30 + [str(i // 2) for i in range(120)]


def split(seed=0, shares=(0.6, 0.2), most=4):
    return split_families(FAMILIES, shares=shares, seed=seed, most=most)


def test_a_family_is_whole_in_one_part():
    parts = split()
    assert [len(part) for part in parts] == [37, 12, 12]  # of 61
    rows = [row for part in parts for family in part for row in family]
    assert len(rows) == len(set(rows)) == 4 + 120
    for part in parts:
        for family in part:
            assert len({FAMILIES[row] for row in family}) == 1
            assert len(family) == (4 if FAMILIES[family[0]] == "many" else 2)


def test_the_seed_draws_families_and_rows():
    assert split() == split() != split(seed=1)
    many = {
        next(f for part in split(seed=seed) for f in part if len(f) == 4)
        for seed in range(3)
    }
    assert len(many) == 3
    assert any(np.diff(family)[0] < 0 for part in split() for family in part)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"shares": (0.6, 0.4)}, "sum below 1"),
        ({"shares": ()}, "must be positive"),
        ({"shares": (0.5, 0.0)}, "must be positive"),
        ({"seed": -1}, "seed=-1"),
        ({"most": 0}, "most=0"),
    ],
)
def test_wrong_numbers_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        split(**wrong)
