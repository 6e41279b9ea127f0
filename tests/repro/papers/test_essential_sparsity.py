"""Masks of one seed prune one model."""

import json

import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers.essential_sparsity import NEEDED, WHOLE
from lostjax.repro.papers.lottery_masks import MORE_UNLIKE
from lostjax.repro.papers.sparsification import BITS, STEP
from lostjax.repro.problems.masked_model import shuffle_tokens
from lostjax.typing import Batch


@pytest.mark.slow
def test_the_masks_of_a_seed_prune_the_same_model(tmp_path):
    words = ["essential_sparsity", "--scale=smoke", "--seeds=2"]
    assert main([*words, f"--results={tmp_path}"]) == 0
    claim = json.loads((tmp_path / "essential_sparsity-smoke.json").read_text())
    wholes = [tuple(row["measures"][WHOLE]) for row in claim["rows"]]
    assert len(wholes) == 2 and len(set(wholes)) == 1
    assert len(set(wholes[0])) == 2  # of two seeds
    assert all(0 < x <= 100 for row in claim["rows"] for x in row["measures"][NEEDED])


@pytest.mark.slow
def test_rounds_end_where_one_cut_does_and_chance_is_elsewhere(tmp_path):
    words = ["lottery_masks", "--scale=smoke", "--seeds=2"]
    assert main([*words, f"--results={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "lottery_masks-smoke.json").read_text())["rows"]
    unlike = {row["method"]: row["mean"][MORE_UNLIKE] for row in rows}
    # The cosine of a random
    # mask that keeps a third with any other that does is a third.
    assert 0 < unlike["lottery"] < unlike["random"] / 2 < 40


@pytest.mark.slow
def test_near_zero_weights_are_counted_along_a_run(tmp_path):
    words = ["sparsification", "--scale=smoke", "--seeds=2"]
    assert main([*words, f"--results={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "sparsification-smoke.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"all text", "shuffled"}
    assert all(1 <= step <= 20 for row in rows for step in row["measures"][STEP])
    bits = [row["mean"][BITS] for row in rows]
    assert bits[0] != bits[1]


def test_shuffled_tokens_are_the_same_in_another_order():
    tokens, targets = np.arange(12).reshape(2, 6), np.arange(1, 13).reshape(2, 6)
    batch = Batch(tokens, targets, *[np.ones((2, 6))] * 3, np.arange(2), np.zeros(2))
    mixed = shuffle_tokens(batch, 0)
    assert sorted(mixed.tokens_BT.ravel()) == list(range(12))
    assert mixed.tokens_BT.tolist() != tokens.tolist()
    np.testing.assert_array_equal(mixed.targets_BT, mixed.tokens_BT + 1)
