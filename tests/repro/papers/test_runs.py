"""What the papers read off language models, on one short run each; one whole run."""

import dataclasses
import json
import math
import types
from functools import cache

import jax
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.experiment import measure_claim
from lostjax.repro.papers import load_paper, saf, stability
from lostjax.repro.papers.frugal import STATE
from lostjax.repro.papers.reweighting import HALF, QUARTER
from lostjax.repro.papers.saf import ASCENT, BEST, RANDOM, sample_loss
from lostjax.repro.papers.stability import LOG_Z, LOGIT, SENSITIVITY
from lostjax.sweep import cells
from lostjax.sweep.cells import BITS
from lostjax.train.evaluate import Evaluation
from lostjax.train.trial import Trial, run_trial


@cache
def run(name, method, **changes):
    """Run a method of the smoke scale for a few steps; what it reads, and the trial."""
    experiment = load_paper(name)
    scale = experiment.scales["smoke"]
    config = dataclasses.replace(experiment.methods(scale)[method], **changes)
    trial = run_trial(config)
    return {key: float(read(trial)) for key, read in experiment.read.items()}, trial


def test_the_state_of_frugal_is_its_share_of_adams():
    found = run("frugal", "FRUGAL", steps=1)[0][STATE]
    # 8 bytes a parameter: 257 x 32 twice, 12,544 in matrices, 96 in norms.
    adamw = 8 * (2 * 257 * 32 + 12_544 + 96) / 1000
    assert found == pytest.approx(adamw - 0.75 * 8 * 12_544 / 1000, abs=1)


@pytest.mark.slow
def test_saf_reads_the_model_that_a_method_has():
    """On a run so short that the average is still near the start."""
    average, trial = run("saf", "AdamW, averaged", steps=20, eval_every=10)
    assert list(trial.evaluations) == list(trial.past_evaluations) == [10, 20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saf, "is_averaged", lambda _: False)
        experiment = load_paper("saf")
        final = {key: read(trial) for key, read in experiment.read.items()}
        params, loss = sample_loss(trial)
        losses = [float(jax.jit(loss)(params))]
    params, loss = sample_loss(trial)
    losses.append(float(jax.jit(loss)(params)))
    assert average[BITS] == trial.past_evaluation.bits_per_byte
    assert final[BITS] == trial.evaluation.bits_per_byte
    assert final[BEST] < average[BEST] <= average[BITS]
    for rises in (final, average):
        assert 0 < rises[RANDOM] < rises[ASCENT] < 1000
    assert final[ASCENT] != average[ASCENT] and final[RANDOM] != average[RANDOM]
    # The rows were trained on: their loss is near that of the last steps.
    np.testing.assert_allclose(losses[0], np.mean(trial.losses[-3:]), rtol=0.1)
    assert losses[0] < losses[1] < trial.losses[0]


def test_only_the_average_that_does_not_act_is_the_model():
    experiment = load_paper("saf")
    methods = experiment.methods(experiment.scales["small"])
    found = {}
    for name, config in methods.items():
        setup = types.SimpleNamespace(config=config)
        trial = Trial([], None, 1, job=setup)
        found[name] = saf.is_averaged(trial)
    assert [name for name, averaged in found.items() if averaged] == ["AdamW, averaged"]


@pytest.mark.parametrize("scale", ["smoke", "small"])
def test_reweightings_progress_is_read_at_steps_that_are_evaluated(scale):
    experiment = load_paper("reweighting")
    config = experiment.scales[scale].config
    steps, every = config.steps, config.eval_every
    along = {
        step: Evaluation(loss=1.0, perplexity=2.0, bits_per_byte=step / 8, tokens=9)
        for step in range(every, steps + 1, every)
    }
    trial = Trial([1.0] * steps, along[steps], 100, evaluations=along)
    assert experiment.read[QUARTER](trial) == steps / 4 / 8
    assert experiment.read[HALF](trial) == steps / 2 / 8


@pytest.fixture
def planted(monkeypatch):
    """Train for nothing: 2 nats, and at large rates more than 6, or none at all."""

    def trial(config):
        rate, qk_norm = config.optim.learning_rate, config.model.qk_norm
        loss = 2.0 + 0.01 * config.seed
        if rate == 1e-1 and not qk_norm:
            loss = 9.0
        if rate == 3e-1:
            loss = 3.0 if qk_norm else math.nan
        evaluation = type("E", (), {"loss": loss, "bits_per_byte": loss / 2})()
        return Trial(
            [6.0, loss],
            evaluation,
            100,
            max_attention_logit=1e3 * rate * 10.0**config.seed,
            mean_log_z=-50 * rate,
        )

    monkeypatch.setattr(cells, "run_trial", trial)


def test_a_planted_grid_has_its_sensitivity(planted, tmp_path):
    claim = measure_claim(
        "stability",
        stability.EXPERIMENT,
        scale="small",
        seeds=2,
        cells=tmp_path / "x.jsonl",
    )
    rows = {row.method: row for row in claim.rows}
    assert claim.cost.runs == 2 * 5 * len(rows) == 60
    # Two of five rates end as the untrained model's 6 nats: above it, and not finite.
    plain = rows["plain"]
    assert plain.measures[SENSITIVITY] == pytest.approx((2 * 4 / 5, 2 * 3.99 / 5))
    found = rows["qk-norm"].measures[SENSITIVITY]
    assert found == pytest.approx((1 / 5, 0.99 / 5))
    assert list(plain.swept.values()) == pytest.approx([2.005, 2.005, 2.005, 6, 6])
    assert plain.learning_rate == 3e-3
    logits = math.log10(300), math.log10(300) + 1
    assert plain.measures[LOGIT] == pytest.approx(logits)
    assert plain.measures[LOG_Z] == pytest.approx((15, 15))
    assert claim.findings[0].verdict == "holds"
    assert claim.swept == "held-out loss"


def test_a_whole_run_is_trained_and_written(tmp_path, capsys, monkeypatch):
    """From the command line to page and figure, with real training in between."""
    smoke = stability.EXPERIMENT.scales["smoke"]
    config = dataclasses.replace(smoke.config, steps=10)
    short = dataclasses.replace(smoke, config=config, methods=("qk-norm",))
    experiment = dataclasses.replace(stability.EXPERIMENT, scales={"smoke": short})
    monkeypatch.setattr(stability, "EXPERIMENT", experiment)
    words = ["stability", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main([*words, "--workers=1"]) == 0
    claim = json.loads((tmp_path / "stability-smoke.json").read_text())
    (row,) = claim["rows"]
    assert list(map(float, row["swept"])) == [3e-2, 3e-1]
    assert all(1.5 < loss < 6.0 for loss in row["swept"].values())
    assert row["mean"][SENSITIVITY] > 0 and row["mean"][LOG_Z] > 0
    page = (tmp_path / "stability-smoke.md").read_text()
    assert page == capsys.readouterr().out
    assert "held-out loss, each row" in (tmp_path / "stability-smoke.svg").read_text()
    lines = (tmp_path / "cells" / "stability-smoke.jsonl").read_text().splitlines()
    assert len(lines) == claim["cost"]["runs"] == 4


@pytest.mark.slow
def test_qk_norm_keeps_attention_logits_small(tmp_path):
    words = ["stability", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "stability-smoke.json").read_text())
    plain, normed = claim["rows"]
    assert (plain["method"], normed["method"]) == ("plain", "qk-norm")
    assert normed["mean"][LOGIT] < plain["mean"][LOGIT] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lost", "frugal", "saf", "reweighting"])
def test_a_smoke_scale_learns_and_finds_its_best_rates(name, tmp_path, capfd):
    """Every tuned paper, by two workers."""
    assert main([name, "--scale=smoke", f"--results={tmp_path}"]) == 0
    claim = json.loads((tmp_path / f"{name}-smoke.json").read_text())
    for row in claim["rows"]:
        # A uniform model over 257 tokens has 8 bits a byte, letters by frequency 4.4.
        assert 2.0 < row["mean"][BITS] < 4.4 and len(row["measures"][BITS]) == 3
        rates = list(map(float, row["swept"]))
        assert min(rates) < row["learning_rate"] < max(rates)
    assert claim["findings"]
    if name == "lost":
        assert claim["findings"][0]["verdict"] == "does not hold"
    assert (tmp_path / f"{name}-smoke.md").read_text() == capfd.readouterr().out
