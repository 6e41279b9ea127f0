"""The repro of SAF and MESA: fair by construction, it runs, and it says what is so."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.claims import BITS
from lostjax.repro.papers.saf import (
    ASCENT,
    AVERAGED,
    BEST,
    COMPARISONS,
    METHODS,
    OF_AVERAGE,
    OF_PARAMETERS,
    RANDOM,
    SCALES,
    build_methods,
    sample_loss,
)
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.trajectory import past_variables
from lostjax.train.config.checks import check_config
from lostjax.train.trial import run_trial


def test_methods_differ_in_the_objective_alone():
    base = SCALES["small"].config
    methods = build_methods(base)
    assert set(methods) == set(METHODS)
    assert set(METHODS) == {one for pair in COMPARISONS for one in pair[:2]}
    for name, config in methods.items():
        check_config(config)
        assert dataclasses.replace(config, objective=base.objective) == base, name
        assert (config == base) == (name == "AdamW")
    for name in AVERAGED:
        assert methods[name].objective.trajectory == "mesa"


def test_measures_are_of_what_is_asked_for(cache_dir):
    """On a run so short that the average is still near the start."""
    base = SCALES["smoke"].config
    data = dataclasses.replace(base.data, cache_dir=str(cache_dir))
    config = dataclasses.replace(base, data=data, steps=40, eval_every=20)
    trial = run_trial(build_methods(config)["AdamW, averaged"])
    assert list(trial.evaluations) == list(trial.past_evaluations) == [20, 40]
    assert trial.evaluations[40] == trial.evaluation
    assert trial.past_evaluations[40] == trial.past_evaluation
    final = {name: measure(trial) for name, measure in OF_PARAMETERS.items()}
    average = {name: measure(trial) for name, measure in OF_AVERAGE.items()}
    assert average[BITS] == trial.past_evaluation.bits_per_byte
    assert final[BEST] < average[BEST] <= average[BITS]
    for rises in (final, average):
        assert 0 < rises[RANDOM] < rises[ASCENT] < 1000
    assert final[ASCENT] != average[ASCENT] and final[RANDOM] != average[RANDOM]
    losses = []
    for find in (evaluation_variables, past_variables):
        params, loss = sample_loss(trial, find=find)
        losses.append(float(jax.jit(loss)(params)))
    # The rows were trained on: their loss is near that of the last steps.
    np.testing.assert_allclose(losses[0], np.mean(trial.losses[-5:]), rtol=0.1)
    assert losses[0] < losses[1] < trial.losses[0]


def test_smoke_scale_learns_and_fills_every_measure(tmp_path, capsys, monkeypatch):
    # The cells of a method share most programs, in whichever process they are made.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    words = ["saf", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "saf-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["AdamW, averaged", "SAF"]
    for row in claim["rows"]:
        # A uniform model over 257 tokens has 8 bits a byte, letters by frequency 4.4.
        assert 2.0 < row["mean"][BITS] < 4.2
        assert list(row["mean"]) == [BITS, BEST, ASCENT, RANDOM]
        assert row["mean"][BEST] <= row["mean"][BITS]
        rates = list(map(float, row["swept"]))
        assert min(rates) < row["learning_rate"] < max(rates)
    (finding,) = claim["findings"]
    assert (finding["first"], finding["second"]) == ("SAF", "AdamW, averaged")
    assert (tmp_path / "saf-smoke.md").read_text() == capsys.readouterr().out
    assert (tmp_path / "saf-smoke.svg").stat().st_size > 1000


@pytest.mark.parametrize("measure", [BEST, ASCENT, RANDOM])
def test_rows_have_the_same_measures_whatever_their_model(measure):
    assert measure in OF_PARAMETERS and measure in OF_AVERAGE
