"""The program: what it reads, both laws of planted curves, refusals, its page."""

import csv
import dataclasses
import gzip
import io
import json

import numpy as np

from lostjax.analysis.scaling import (
    LossLaw,
    PowerLaw,
    StepLaw,
    loss_trajectory,
    predict_loss,
)
from lostjax.nn import count_parameters
from lostjax.scaling.__main__ import main
from lostjax.scaling.reading import read_curves
from lostjax.train.build.model import build_model
from lostjax.train.config.presets import get_preset
from lostjax.train.config.stored import save_config
from lostjax.train.log.json_lines import JsonLines

LOSS_LAW = LossLaw(1.7, 400.0, 1500.0, 0.34, 0.36)
STEP_LAW = StepLaw(PowerLaw(8.8e13, 0.076), PowerLaw(55.0, 4.8), PowerLaw(2.1e3, 0.76))


def write_table(path, rows, head=("run", "n_params", "tokens", "loss", "batch_tokens")):
    text = io.StringIO()
    csv.writer(text).writerows([head, *rows])
    raw = text.getvalue().encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def loss_rows(*, family=()):
    return [
        (
            *family,
            f"run{n:g}",
            n,
            d,
            float(predict_loss(LOSS_LAW, n_params=n, tokens=d)),
        )
        for n in (1e8, 3e8, 1e9, 4e9)
        for d in np.geomspace(2e9, 3e11, 9)
    ]


def step_rows():
    n, s, b = (
        x.ravel()
        for x in np.meshgrid(
            [2e4, 6e4, 2e5], np.geomspace(300, 2e4, 9), [1e3, 4e3, 16e3]
        )
    )
    losses = loss_trajectory(STEP_LAW, n_params=n, steps=s, batch=b)
    return [
        (f"{size:g}-{batch:g}", size, steps * batch, float(loss), batch)
        for size, steps, batch, loss in zip(n, s, b, losses, strict=True)
    ]


def test_a_planted_law_is_found_and_shown(tmp_path, capsys, read_page):
    head = ("run", "n_params", "tokens", "loss")
    table = write_table(tmp_path / "a.csv", loss_rows(), head)
    words = [table, f"--out={tmp_path}", "--draws=20", "--params=7e9", "--tokens=1e12"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| run4e+09 | 4.00 G |" in said and "scaling.json" in said
    assert "steps and batch: not fitted: no run says its tokens a step" in said
    values = json.loads((tmp_path / "scaling.json").read_text())
    for name, value in LOSS_LAW._asdict().items():
        np.testing.assert_allclose(values["loss_law"][name], value, rtol=1e-4)
    (forecast,) = values["forecasts"]
    true = float(predict_loss(LOSS_LAW, n_params=7e9, tokens=1e12))
    assert forecast["low"] < forecast["loss"] < forecast["high"]
    np.testing.assert_allclose(forecast["loss"], true, rtol=1e-5)
    assert len(values["compute_optimal"]) == 7
    page = (tmp_path / "scaling.html").read_text()
    read_page(page)
    assert f"{true:.3f} (" in page and "Not fitted: no run says" in page


def test_both_laws_of_one_table(tmp_path, capsys, read_page):
    table = write_table(tmp_path / "b.csv.gz", step_rows())
    assert main([table, f"--out={tmp_path}", "--draws=20", "--skip=0"]) == 0
    values = json.loads((tmp_path / "scaling.json").read_text())
    found = values["step_law"]
    for part, law in STEP_LAW._asdict().items():
        for name, value in law._asdict().items():
            np.testing.assert_allclose(found[part][name], value, rtol=1e-3)
    page = (tmp_path / "scaling.html").read_text()
    read_page(page)
    assert page.count("<svg") >= 14


def make_run(directory, *, width, batch_size):
    """Write what the program reads of a run."""
    smoke = get_preset("smoke")
    model = dataclasses.replace(smoke.model, d_model=width, linear="dense")
    config = dataclasses.replace(smoke, model=model, batch_size=batch_size)
    directory.mkdir()
    save_config(directory / "config.json", config)
    lines = JsonLines(directory, resume_step=0)
    for step in range(1, 101):
        lines.write(step, {"loss": 3 + 10 / step})
        if step % 10 == 0:
            lines.write(step, {"eval_loss": 2 + 10 / step})
    lines.close()
    return config


def test_runs_are_read_with_their_own_sizes_and_batches(tmp_path):
    config = make_run(tmp_path / "a", width=32, batch_size=4)
    make_run(tmp_path / "b", width=64, batch_size=8)
    names = [str(tmp_path / name) for name in "ba"]
    small, large = read_curves(names, loss="held-out", family=None, skip=0.25)
    assert small.name == names[1] and large.n_params > small.n_params
    model = build_model(config.model, vocab_size=1)
    assert small.n_params == count_parameters(model).non_embedding
    batch = 4 * config.data.seq_len
    assert small.batch_tokens == batch == large.batch_tokens / 2
    np.testing.assert_array_equal(small.tokens, batch * np.arange(30, 101, 10))
    np.testing.assert_allclose(small.losses, 2 + 10 / np.arange(30, 101, 10))
    averaged, _ = read_curves(names, loss="training", family=None, skip=0.0)
    assert 20 < len(averaged.losses) <= 30 and averaged.losses[0] == 13
    assert (np.diff(averaged.losses) < 0).all()


def test_what_cannot_be_compared_or_read_is_refused(tmp_path, capsys):
    make_run(tmp_path / "a", width=32, batch_size=4)
    head = ("run", "n_params", "tokens", "loss")
    good = write_table(tmp_path / "good.csv", loss_rows(), head)
    wide = ("family", *head)
    two = loss_rows(family=("x",)) + loss_rows(family=("y",))
    families = write_table(tmp_path / "two.csv", two, wide)
    lacking = write_table(tmp_path / "no.csv", [(1, 2)], ("n_param", "tokens"))
    word = write_table(tmp_path / "word.csv", [("a", 1e6, "many", 3)], head)
    high = [(*row[:3], np.exp(row[3] + 1)) for row in loss_rows()]
    perplexity = write_table(tmp_path / "ppl.csv", high, head)
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"no gzip")
    for words, said in (
        ([], "RUNS are missing"),
        ([good, str(tmp_path / "a")], "cannot be compared"),
        ([families], "has the families x, y; choose one by --family"),
        ([families, "--family=z"], "--family=z"),
        ([lacking], "has no column n_params; did you mean n_param?"),
        ([word], "line 2: tokens='many' is not a number"),
        ([perplexity], "take their logarithm"),
        ([str(broken)], "broken.csv.gz: "),
        ([str(tmp_path / "none.csv")], "No such file"),
        ([str(tmp_path)], "not a run's directory"),
        ([good, "--skip=1"], "--skip=1"),
        ([good, "--draws=3"], "--draws=3"),
        ([good, "--params=0"], "--params=0"),
        ([good, f"--out={good}"], "--out="),
        ([str(tmp_path / "a")], "no law can be fitted"),
    ):
        out = [f"--out={tmp_path / 'out'}"] * (not any("--out" in it for it in words))
        assert main([*words, *out]) == 2, words
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
    assert main([families, "--family=y", f"--out={tmp_path}", "--draws=20"]) == 0
