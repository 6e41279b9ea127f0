"""Stored cells: found by name, used if they agree, trained again if not."""

import dataclasses
import json
import math

import pytest

from lostjax.sweep import cell_file
from lostjax.sweep.cell_file import CellFile, find_differences, name_cell
from lostjax.sweep.cells import BITS, LOSS, PARAMETERS, run_cell, train_fields
from lostjax.train.config.schema import ModelConfig, TrainConfig

CONFIG = TrainConfig(model=ModelConfig(rank=2))
NAME = "lost-lr0.006-seed0"


def with_model(**values):
    return dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **values)
    )


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values) + "\n")


def run(path, config=CONFIG, **options):
    """Run a cell as a program would that was started anew."""
    return run_cell("LOST", config, cells=CellFile(path), **options)


@pytest.fixture
def stored(fake_training, tmp_path):
    """A file of one cell: its path, and what was trained so far."""
    trained = fake_training()
    path = tmp_path / "cells.jsonl"
    run(path)
    assert len(trained) == 1
    return path, trained


def read(path):
    (cell,) = CellFile(path)._cells.values()
    return cell


def test_a_name_is_for_readers():
    name = name_cell("LOST, scaled-normal start", rate=4e-3 / 4, seed=2)
    assert name == "lost-scaled-normal-start-lr0.001-seed2"
    assert name_cell("closed form", rate=None, seed=0) == "closed-form-seed0"


def test_a_cell_says_what_it_is_and_what_made_it(stored):
    cell = read(stored[0])
    assert cell.name == NAME and cell.method == "LOST"
    assert cell.configuration["model.rank"] == CONFIG.model.rank
    assert cell.losses == (3.0, round(cell.measures[LOSS], 5))
    assert cell.measures[BITS] == cell.measures[LOSS] / 2
    assert cell.measures[PARAMETERS] == 100
    assert len(cell.made.date) == 10 and cell.made.machine and cell.made.jax
    assert cell.made.seconds >= 0


def test_what_cannot_change_the_numbers_is_not_in_it(stored):
    names = {name.split(".")[-1] for name in read(stored[0]).configuration}
    free = {"cache_dir", "run_dir", "wandb", "profile", "keep", "remat", "mesh"}
    assert not names & (free | {"checkpoint_every", "eval_every", "coordinator"})


def test_a_trained_cell_is_not_trained_again(stored):
    path, trained = stored
    free = dataclasses.replace(CONFIG, keep=9, run_dir="x", mesh="data:2")
    for config in (CONFIG, free):
        assert run(path, config) == read(path)
    assert len(trained) == 1 and len(path.read_text().splitlines()) == 1


def test_a_cell_from_before_a_field_stands_for_its_default(stored):
    path, trained = stored
    edit(path, lambda values: values["configuration"].pop("model.qk_norm"))
    run(path)
    assert len(trained) == 1
    run(path, with_model(qk_norm=True))
    assert len(trained) == 2, "the field is not at its default"
    assert read(path).configuration["model.qk_norm"] is True
    assert len(path.read_text().splitlines()) == 2, "it is appended, nothing is lost"


def test_a_cell_of_another_value_is_trained_again(stored, capsys):
    path, trained = stored
    run(path, with_model(rank=5))
    assert [config.model.rank for config in trained] == [CONFIG.model.rank, 5]
    said = capsys.readouterr().err
    assert f"{NAME} is trained again: model.rank: 2 there, 5 now" in said


def test_a_cell_with_a_field_that_is_gone_is_trained_again(stored):
    path, trained = stored
    edit(path, lambda values: values["configuration"].update({"model.gone": None}))
    run(path)
    assert len(trained) == 2


def test_a_renamed_field_keeps_its_cells(stored, monkeypatch):
    path, trained = stored
    monkeypatch.setattr(cell_file, "RENAMED_FIELDS", {"model.inner": "model.rank"})

    def rename(values):
        fields = values["configuration"]
        fields["model.inner"] = fields.pop("model.rank")

    edit(path, rename)
    run(path)
    assert len(trained) == 1
    run(path, with_model(rank=5))
    assert len(trained) == 2, "its value still counts"


def test_a_cell_without_a_measure_is_trained_again(stored, capsys):
    path, trained = stored
    cell = run(path, measures={"first loss": lambda trial: trial.losses[0]})
    assert len(trained) == 2 and cell.measures["first loss"] == 3.0
    assert "no first loss there" in capsys.readouterr().err


def test_a_measure_may_replace_a_usual_one(fake_training, tmp_path):
    fake_training()
    cell = run(tmp_path / "x.jsonl", measures={BITS: lambda trial: 7.0})
    assert cell.measures[BITS] == 7.0 and cell.measures[LOSS] < 7


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_text(path.read_text()[:200] + "\n"),
        lambda path: path.write_bytes(b"\xff\xfe\n"),
        lambda path: path.write_text("[]\n"),
        lambda path: edit(path, lambda values: values.pop("measures")),
        lambda path: edit(path, lambda values: values.pop("made")),
        lambda path: edit(path, lambda values: values["measures"].update(x="low")),
        lambda path: edit(path, lambda values: values.update(configuration=None)),
    ],
)
def test_a_broken_line_is_named_and_its_cell_trained_again(stored, break_it):
    path, trained = stored
    whole = read(path)
    break_it(path)
    (damage,) = CellFile(path).damage
    assert f"{path}, line 1: not a cell" in damage and "remove the line" in damage
    again = run(path)
    assert len(trained) == 2 and again.measures == whole.measures
    assert read(path) == again


def test_a_torn_last_line_is_no_damage(stored):
    path, trained = stored
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert not CellFile(path).damage
    run(path)
    run(path, dataclasses.replace(CONFIG, seed=1))
    assert len(trained) == 2 and len(CellFile(path)) == 2


def test_of_two_lines_with_one_name_the_last_counts(stored):
    path, _ = stored
    later = json.loads(path.read_text())
    later["measures"][LOSS] = 9.0
    path.write_text(path.read_text() + json.dumps(later) + "\n")
    assert read(path).measures[LOSS] == 9.0


def test_what_diverged_is_null_in_the_file(stored):
    path, _ = stored
    cell = read(path)
    measures = {**cell.measures, LOSS: math.inf}
    CellFile(path).add(cell._replace(measures=measures, losses=(1.0, math.nan)))
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    again = read(path)
    assert math.isnan(again.measures[LOSS]) and math.isnan(again.losses[1])


def test_a_finished_cell_agrees_with_itself():
    fields = train_fields(CONFIG)
    assert find_differences(fields, fields, defaults={}) == []
    assert find_differences({}, {"a": None}, defaults={}) == ["a: None there, None now"]
