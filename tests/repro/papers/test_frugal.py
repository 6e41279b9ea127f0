"""The repro of FRUGAL: methods that are what they are called, and a smoke run."""

import json

import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.claims import BITS, Row, judge
from lostjax.repro.papers.frugal import (
    COMPARISONS,
    METHODS,
    SCALES,
    STATE,
    build_methods,
)
from lostjax.train.config.checks import check_config


def test_every_method_is_compared_and_can_be_trained():
    methods = build_methods(SCALES["small"].config)
    assert set(methods) == set(METHODS)
    for config in methods.values():
        check_config(config)
    assert len({repr(config) for config in methods.values()}) == len(methods)


def test_methods_of_a_comparison_share_model_and_text():
    methods = build_methods(SCALES["small"].config)
    for pair in COMPARISONS:
        first, second = methods[pair.first], methods[pair.second]
        assert first.model == second.model and first.data == second.data
        assert first.optim != second.optim


def test_only_measured_rows_are_judged():
    def row(name, value):
        return Row(name, {STATE: 1}, 1e-3, {}, {BITS: (value, value)})

    rows = [row("FRUGAL", 2.0), row("BAdam", 1.0), row("GaLore", 3.0)]
    (finding,) = judge(rows, COMPARISONS)
    assert finding.statement == "FRUGAL is better than GaLore of its density"
    assert finding.verdict == "holds" and finding.difference == -1.0


def test_smoke_scale_measures_the_state(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    words = ["frugal", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "frugal-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["AdamW", "FRUGAL"]
    for found in claim["rows"]:
        assert 3.0 < found["mean"][BITS] < 4.4, "letters by frequency have 4.4"
        rates = list(map(float, found["swept"]))
        assert min(rates) < found["learning_rate"] < max(rates)
    adamw, frugal = (row["facts"][STATE] for row in claim["rows"])
    # 8 bytes a parameter: 257 x 32 twice, 12,544 in matrices, 96 in norms.
    assert adamw == pytest.approx(8 * (2 * 257 * 32 + 12_544 + 96) / 1000, abs=1)
    assert frugal == pytest.approx(adamw - 0.75 * 8 * 12_544 / 1000, abs=1)
    assert "| FRUGAL | 15" in capsys.readouterr().out
