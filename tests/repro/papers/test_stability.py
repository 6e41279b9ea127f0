"""The repro of small-scale proxies: planted grids come out, and a small one runs."""

import dataclasses
import json
import math

import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import stability
from lostjax.repro.papers.stability import (
    COMPARISONS,
    LOG_Z,
    LOGIT,
    METHODS,
    SCALES,
    SENSITIVITY,
    build_methods,
)
from lostjax.sweep import cells
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import diff_configs
from lostjax.train.trial import Trial

SMALL = SCALES["small"]


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
    claim = stability.run(SMALL, seeds=2, directory=tmp_path)
    rows = {row.method: row for row in claim.rows}
    assert list(rows) == list(METHODS) and claim.cost.runs == 2 * 5 * len(METHODS)
    # Two of five rates end as the untrained model's 6 nats: above it, and not finite.
    plain = rows["plain"]
    assert plain.measures[SENSITIVITY] == pytest.approx((2 * 4 / 5, 2 * 3.99 / 5))
    assert rows["qk-norm"].measures[SENSITIVITY] == pytest.approx((1 / 5, 0.99 / 5))
    assert list(plain.swept.values()) == pytest.approx([2.005, 2.005, 2.005, 6, 6])
    assert plain.learning_rate == 3e-3
    assert plain.measures[LOGIT] == pytest.approx(
        (math.log10(300), math.log10(300) + 1)
    )
    assert plain.measures[LOG_Z] == pytest.approx((15, 15))
    assert [found.statement for found in claim.findings] == [
        pair.statement for pair in COMPARISONS
    ]
    assert claim.findings[0].verdict == "holds"


def test_variants_differ_in_what_their_names_say():
    methods = build_methods(SMALL.config, rates=SMALL.rates)
    assert set(methods) == set(METHODS)
    changed = {
        name: [line.split(":")[0] for line in diff_configs(SMALL.config, config)]
        for name, config in methods.items()
    }
    assert changed == {
        "plain": [],
        "qk-norm": ["--model.qk-norm"],
        "log-partition penalty": ["--objective.log-partition"],
        "long warm-up": ["--optim.warmup"],
        "independent decay": ["--optim.weight-decay", "--optim.independent-decay"],
        "ordinary decay": ["--optim.weight-decay"],
    }
    for config in methods.values():
        check_config(config)


@pytest.mark.parametrize("rate, ratio", [(3e-3, 0.1), (3e-1, 10.0)])
def test_both_decays_are_alike_in_the_middle_of_the_grid(rate, ratio):
    """A weight whose gradient is 0 shrinks by the decay alone."""

    def shrinkage(name):
        config = build_methods(SMALL.config, rates=SMALL.rates)[name].optim
        config = dataclasses.replace(config, learning_rate=rate)
        tx, _ = build_optimizer(config, steps=300)
        params = {"layers": {"up": {"kernel": np.ones((2, 2), np.float32)}}}
        zeros = {"layers": {"up": {"kernel": np.zeros((2, 2), np.float32)}}}
        state, total = tx.init(params), 0.0
        for _ in range(20):
            updates, state = tx.update(zeros, state, params)
            total -= float(updates["layers"]["up"]["kernel"][0, 0])
        return total

    independent, ordinary = map(shrinkage, ("independent decay", "ordinary decay"))
    assert 12 / 30 < independent < 13 / 30, "a thirtieth a step, after 15 of warm-up"
    assert ordinary / independent == pytest.approx(ratio, rel=1e-4)


def test_smoke_scale_measures_what_the_small_one_does(tmp_path, capsys, monkeypatch):
    # The seeds of a variant share programs, for workers read these when they start.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    words = ["stability", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "stability-smoke.json").read_text())
    plain, normed = claim["rows"]
    assert (plain["method"], normed["method"]) == ("plain", "qk-norm")
    assert normed["mean"][LOGIT] < plain["mean"][LOGIT] - 0.5
    for row in claim["rows"]:
        assert list(map(float, row["swept"])) == [3e-2, 3e-1]
        assert all(1.5 < loss < 5.6 for loss in row["swept"].values())
        assert row["mean"][SENSITIVITY] > 0 and row["mean"][LOG_Z] > 0
    page = (tmp_path / "stability-smoke.md").read_text()
    assert page == capsys.readouterr().out
    assert "held-out loss, each row" in (tmp_path / "stability-smoke.svg").read_text()
    assert len(list((tmp_path / "cells/stability-smoke").iterdir())) == 8
