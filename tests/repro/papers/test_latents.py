"""The paper on latent variables: what it reads of codes that are planted."""

import dataclasses

import numpy as np
import pytest

from lostjax.repro.papers import latents
from lostjax.repro.papers.latents import (
    COST,
    COUNT,
    ERROR,
    GAP,
    LEFT,
    PAIRS,
    TOTAL,
)
from lostjax.repro.papers.latents.codes import (
    Codes,
    Training,
    choose,
    classify,
    encode,
)
from lostjax.repro.problems.images import DIGITS


def make_codes():
    """Two used variables, one of which tells the class, and two passive copies."""
    rng = np.random.default_rng(0)
    labels_B = rng.integers(10, size=4000)
    tiny_B = 0.02 * rng.normal(size=4000)
    mean_BZ = np.stack(
        [
            labels_B / 3 - 1.5,
            rng.normal(size=4000),
            tiny_B,
            tiny_B + 0.002 * rng.normal(size=4000),
        ],
        axis=1,
    )
    variance_Z = np.array([1e-4, 1e-4, 1.0, 1.0])
    return Codes(mean_BZ, np.log(np.tile(variance_Z, (4000, 1))), labels_B, 0.0)


@pytest.fixture
def read(monkeypatch):
    codes = make_codes()
    monkeypatch.setattr(latents, "encode", lambda *_, **__: codes)

    def read(representation, variables="all"):
        config = Training(representation=representation, variables=variables)
        return latents.read_codes(config, None, 0)

    return read


def test_the_planted_gap_is_of_the_passive_variables(read):
    mean, used = read("mean"), read("mean", "not passive")
    assert (mean[COUNT], used[COUNT]) == (4, 2)
    assert mean[TOTAL] > 2 and mean[GAP] == pytest.approx(mean[TOTAL], abs=0.01)
    assert mean[LEFT] == 1 and abs(used[LEFT]) < 0.01
    assert read("sampled")[GAP] == 0 and read("shuffled")[TOTAL] < 0.01
    passive = read("mean", "passive"), read("sampled", "passive")
    assert passive[0][PAIRS] > 1 > 0.1 > passive[1][PAIRS]


def test_only_what_tells_the_class_is_needed_to_classify(read):
    all_of_them, used = read("mean"), read("mean", "not passive")
    assert abs(used[COST]) < 1 and all_of_them[COST] == 0
    assert used[ERROR] - all_of_them[ERROR] == used[COST]
    assert read("mean", "passive")[ERROR] > 80
    assert read("mean", "passive")[COST] > 10


def test_the_classifier_judges_rows_that_it_was_not_fitted_to():
    labels_B = np.arange(200) % 10
    told = np.eye(10)[labels_B]
    assert classify(told, labels_B) == 0
    told[100:] = told[:100][::-1]
    assert classify(told, labels_B) == 100
    assert classify(told[:, :0], labels_B) == 90


def test_an_autoencoder_is_trained_once_for_all_its_rows():
    small = Training(DIGITS, 128, 30, latents=2, widths=(2, 2), hidden=4, steps=3)
    codes = encode(small, learning_rate=1e-2, seed=0)
    sampled = dataclasses.replace(small, representation="sampled")
    assert encode(sampled, learning_rate=1e-2, seed=0) is codes
    assert codes.mean_BZ.shape == (30, 2) and codes.reconstruction > 0
    beta = dataclasses.replace(small, beta=9.0)
    assert not np.array_equal(
        encode(beta, learning_rate=1e-2, seed=0).mean_BZ, codes.mean_BZ
    )
    shuffled = choose(
        codes, dataclasses.replace(small, representation="shuffled"), seed=0
    )
    np.testing.assert_array_equal(
        np.sort(shuffled, axis=0), np.sort(codes.mean_BZ, axis=0)
    )
    assert not np.array_equal(shuffled, codes.mean_BZ)
