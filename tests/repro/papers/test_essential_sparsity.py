"""Masks of one seed prune one model."""

import json

import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers.essential_sparsity import NEEDED, WHOLE


@pytest.mark.slow
def test_the_masks_of_a_seed_prune_the_same_model(tmp_path):
    words = ["essential_sparsity", "--scale=smoke", "--seeds=2"]
    assert main([*words, f"--results={tmp_path}"]) == 0
    claim = json.loads((tmp_path / "essential_sparsity-smoke.json").read_text())
    wholes = [tuple(row["measures"][WHOLE]) for row in claim["rows"]]
    assert len(wholes) == 2 and len(set(wholes)) == 1
    assert len(set(wholes[0])) == 2  # of two seeds
    assert all(0 < x <= 100 for row in claim["rows"] for x in row["measures"][NEEDED])
