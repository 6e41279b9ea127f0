"""Sweeps: cells that are kept, grids that are checked first, and the whole program."""

import dataclasses
import json
import math

import pytest

from lostjax.errors import ConfigError
from lostjax.nn import count_parameters
from lostjax.sweep import cells
from lostjax.sweep.__main__ import main
from lostjax.sweep.cell_file import CellFile
from lostjax.sweep.cells import LOSS
from lostjax.sweep.grid import fit_growths, measure_sensitivities, run_grid
from lostjax.sweep.table import format_markdown, make_tables, render_sweep
from lostjax.train.build.model import build_model
from lostjax.train.config.schema import ModelConfig, StabilityConfig, TrainConfig
from lostjax.train.config.widths import at_width
from lostjax.train.trial import Trial

RATES = [1e-3, 1e-2, 1e-1]
BASE = TrainConfig()


def fake_trial(config):
    """Loss and logits by hand: the rate .1 diverges at width 256 and above."""
    rate, width = config.optim.learning_rate, config.model.d_model
    loss = 2.0 + abs(math.log10(rate / 1e-2)) + 10 / width
    if rate == 1e-1 and width >= 256:
        loss = math.nan
    evaluation = type("E", (), {"loss": loss, "bits_per_byte": loss / math.log(2)})()
    logit = rate * width**2
    return Trial([5.0, loss], evaluation, width**2, max_attention_logit=logit)


@pytest.fixture
def trials(monkeypatch):
    """Replace training; gives the list of what was trained."""
    trained = []

    def trial(config):
        trained.append((config.model.d_model, config.optim.learning_rate))
        return fake_trial(config)

    monkeypatch.setattr(cells, "run_trial", trial)
    return trained


def run(directory, config=BASE, widths=(256, 128), say=lambda line: None):
    path = directory / "cells.jsonl"
    return run_grid(config, rates=RATES[::-1], widths=widths, path=path, say=say)


def read(directory):
    return [json.loads(line) for line in (directory / "cells.jsonl").open()]


def test_a_stopped_sweep_goes_on_where_it_was(trials, tmp_path):
    said = []
    first = run(tmp_path, say=said.append)
    assert len(trials) == 6 and said[-1].startswith("6/6  width 256")
    path = tmp_path / "cells.jsonl"
    kept = [cell for cell in read(tmp_path) if cell["name"] != "width256-lr0.01-seed0"]
    assert len(kept) == 5
    path.write_text("".join(json.dumps(cell) + "\n" for cell in kept))
    again = run(tmp_path)
    assert trials[6:] == [(256, 1e-2)]
    assert str(again) == str(first)  # NaN is no equal of itself
    assert list(again) == [128, 256] and list(again[128]) == RATES


def test_cells_of_an_older_version_are_named_and_left_alone(trials, tmp_path):
    (tmp_path / "cells").mkdir()
    said = []
    run(tmp_path, say=said.append)
    assert "cells of an older version, one a file, are not read" in said[0]
    assert len(trials) == 6 and (tmp_path / "cells").is_dir()


def test_what_diverged_is_null_in_the_file(trials, tmp_path):
    run(tmp_path)
    by_name = {cell["name"]: cell for cell in read(tmp_path)}
    cell = by_name["width256-lr0.1-seed0"]
    assert cell["measures"][LOSS] is None and cell["measures"]["initial_loss"] == 5.0
    assert cell["configuration"]["model.d_model"] == 256


def test_another_configurations_cell_is_trained_again_and_says_so(
    trials, tmp_path, capsys
):
    run(tmp_path)
    longer = dataclasses.replace(BASE, steps=601)
    run(tmp_path, config=longer)
    assert len(trials) == 12
    assert capsys.readouterr().err.count("again: steps: 600 there, 601 now") == 6
    watched = dataclasses.replace(longer, stability=StabilityConfig(every=7))
    run(tmp_path, config=watched)
    assert len(trials) == 18, "logits of other steps are other logits"


def test_no_cell_is_trained_where_one_cannot_be(trials, tmp_path):
    with pytest.raises(ConfigError, match="width 100: must be a positive multiple"):
        run(tmp_path, widths=(128, 100))
    with pytest.raises(ConfigError, match="--batch-size=0"):
        run(tmp_path, config=dataclasses.replace(BASE, batch_size=0))
    assert not trials and not list(tmp_path.iterdir())


def test_sensitivity_and_growth_are_by_width_and_by_rate(trials, tmp_path):
    grid = run(tmp_path)
    found = measure_sensitivities(grid)
    assert found[128].value == pytest.approx(2 / 3)
    assert found[256].value == pytest.approx((1 + 0 + 3 - 10 / 256) / 3)
    assert found[256].best_rate == 1e-2
    growths = fit_growths(grid)
    assert set(growths) == set(RATES)
    assert growths[1e-2].exponent == pytest.approx(1.0)
    tables = make_tables(grid, larger=2**20)
    table = format_markdown(tables)
    assert "| sensitivity | 0.667 | 1.320 |" in table
    assert f"| 0.01 | 163.8 | 655.4 | 1.00 | {0.01 * 2**20:,.0f} |" in table
    assert "not a number" in table
    page = render_sweep(grid, tables, config=BASE)
    assert page.count("<svg") == 3 and page.count("\N{BULLET} width 256") == 2
    assert page.count(">0.01</text>") == 3, "ticks of both axes and of the map"
    assert "<td>0.667</td><td>1.320</td>" in page


def test_one_width_and_one_rate_have_neither(trials, tmp_path):
    grid = run_grid(
        TrainConfig(),
        rates=[0.1],
        widths=[128],
        path=tmp_path / "cells.jsonl",
        say=print,
    )
    assert measure_sensitivities(grid) == {} == fit_growths(grid)
    tables = make_tables(grid, larger=None)
    page = render_sweep(grid, tables, config=BASE)
    assert "sensitivity" not in format_markdown(tables) + page
    assert page.count("<svg") == 3


def test_a_width_scales_all_that_lies_inside_a_layer():
    model = ModelConfig(d_model=64, n_heads=4, d_hidden=172, rank=16)
    wide = at_width(model, 256)
    assert (wide.n_heads, wide.d_hidden, wide.rank) == (16, 688, 64)
    assert at_width(wide, 64) == model
    counts = [
        count_parameters(build_model(config, vocab_size=9)).attention
        for config in (model, wide)
    ]
    assert counts[1] == pytest.approx(16 * counts[0], rel=0.02)
    for width in (0, -64, 65):
        with pytest.raises(ConfigError, match=f"width {width}"):
            at_width(model, width)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--rates=1e-3,x", "--rates=1e-3,x: 'x' must be a positive number"),
        ("--rates=0.1,1e-1", "--rates=0.1,1e-1: 1e-1 is given twice"),
        ("--rates=", "--rates: needs at least one learning rate"),
        ("--widths=64.5", "--widths=64.5: '64.5' must be a positive integer"),
        ("--widths=33", "width 33: must be a positive multiple"),
        ("--out=/dev/null", "--out=/dev/null: is a file, not a directory"),
        ("--out=/dev/null/x", "--out=/dev/null/x: is a file, not a directory"),
        ("--out=/proc/x", "--out=/proc/x: No such file or directory"),
        ("--out=gs://b/x", "--out=gs://b/x: a URL"),
        ("--run-dir=x", "--run-dir=x: a sweep's directory is --out"),
        ("--rate=1", "--rate: no such flag; did you mean --rates?"),
        ("--resume=latest", "--resume: no such flag"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, message, capsys):
    assert main(["--preset=smoke", words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_the_program_trains_tabulates_and_draws(
    text_file, cache_dir, tmp_path, capsys, read_page
):
    words = [
        "--preset=smoke",
        "--mesh=data:1",
        "--steps=4",
        "--model.n-layers=1",
        "--model.linear=dense",
        "--rates=1e-3",
        "--widths=16,32",
        "--predict-width=128",
        f"--data.source={text_file}",
        f"--data.cache-dir={cache_dir}",
        "--data.seq-len=32",
        f"--out={tmp_path}",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1/2  width 16  learning rate 0.001" in out
    table = (tmp_path / "sweep.md").read_text()
    assert table in out and "at 201 k parameters" in table
    assert out.startswith(f"writing to {tmp_path}: cells.jsonl with each run, sweep.md")
    assert out.endswith(
        f"tables   {tmp_path}/sweep.md\nfigures  {tmp_path}/sweep.html\n"
    )
    page = read_page((tmp_path / "sweep.html").read_text()).text
    assert "at 201 k parameters" in page and "batch_size" in page
    assert len(CellFile(tmp_path / "cells.jsonl")) == 2
