"""The repro of LOST: fair by construction, it runs, and it says what is wrong."""

import json

import pytest

from lostjax.nn import count_parameters
from lostjax.repro.__main__ import main
from lostjax.repro.claims import BITS
from lostjax.repro.papers.lost import METHODS, SCALES, STATEMENTS, build_methods
from lostjax.train.build.model import build_model


def test_methods_have_losts_parameters_but_for_the_full_model():
    methods = build_methods(SCALES["small"].config)
    assert set(methods) == set(METHODS)
    assert set(STATEMENTS) == set(METHODS) - {"LOST"}
    counts = {
        name: count_parameters(build_model(config.model, vocab_size=9)).non_embedding
        for name, config in methods.items()
    }
    lost = counts.pop("LOST")
    assert counts.pop("dense, full") > 1.8 * lost
    for name, count in counts.items():
        assert 0.94 * lost <= count <= lost, f"{name}: {count} against {lost}"


def test_smoke_scale_learns_and_orders_what_lies_outside_noise(
    tmp_path, capsys, monkeypatch
):
    # The cells of a method share most programs, in whichever process they are made.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:lost-smoke -->\n<!-- end -->\n")
    words = ["lost", "--scale=smoke", f"--results={tmp_path}", f"--readme={readme}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "lost-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["dense, full", "LOST"]
    # A uniform model over 257 tokens has 8 bits a byte, letters by frequency 4.4.
    for found in claim["rows"]:
        assert 2.0 < found["mean"][BITS] < 4.0 and len(found["measures"][BITS]) == 3
        rates = list(map(float, found["swept"]))
        assert min(rates) < found["learning_rate"] < max(rates)
    (finding,) = claim["findings"]
    # Six times the parameters are worth more than what seeds do: .25 against .09.
    assert finding["verdict"] == "does not hold"
    assert finding["difference"] > finding["margin"] > 0
    page = (tmp_path / "lost-smoke.md").read_text()
    assert page == capsys.readouterr().out
    assert "(lost-smoke.svg)" not in readme.read_text()
    assert "](./lost-smoke.svg)" in readme.read_text()
    assert (tmp_path / "lost-smoke.svg").stat().st_size > 1000
    n_cells = len(list((tmp_path / "cells" / "lost-smoke").iterdir()))
    assert n_cells == claim["cost"]["runs"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["lots"], "lots"),
        ([], "Which paper. (required)"),
        (["lost", "--seeds=1"], "--seeds=1: a spread needs at least 2"),
        (["lost", "--workers=0"], "--workers=0"),
        (["lost", "--sale=smoke"], "did you mean --scale?"),
        (["lost", "--results={file}"], "Not a directory"),
        (["lost", "--results={new}", "--readme={new}"], "No such file"),
        (["lost", "--results={new}", "--readme={file}"], "results:lost-small"),
    ],
)
def test_bad_input_is_one_line_and_trains_nothing(words, message, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    places = {name: str(tmp_path / name) for name in ("file", "new")}
    assert main([word.format(**places) for word in words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1, said.err
    assert not said.out and not (tmp_path / "new").exists()
