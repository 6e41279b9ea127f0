"""Stored cells: found by name, used where they agree, trained again where not."""

import dataclasses
import json
import math

import pytest

from lostjax.sweep.cells import (
    find_differences,
    load_cell,
    name_cell,
    run_cell,
    save_cell,
)
from lostjax.train.config.schema import ModelConfig, TrainConfig

CONFIG = TrainConfig(model=ModelConfig(rank=2))


def with_model(**values):
    return dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **values)
    )


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def stored(fake_training, tmp_path):
    """A cell on disk: its path, and what was trained so far."""
    trained = fake_training()
    run_cell("LOST", CONFIG, directory=tmp_path)
    assert len(trained) == 1
    return tmp_path / name_cell("LOST", CONFIG), trained


def test_a_name_is_for_readers():
    optim = dataclasses.replace(CONFIG.optim, learning_rate=4e-3 / 4)
    config = dataclasses.replace(CONFIG, optim=optim, seed=2)
    name = name_cell("LOST, scaled-normal start", config)
    assert name == "lost-scaled-normal-start-lr0.001-seed2.json"


def test_a_cell_says_what_it_is_and_what_made_it(stored):
    cell = load_cell(stored[0])
    assert cell.method == "LOST" and cell.parameters == 100
    assert cell.configuration["model.rank"] == CONFIG.model.rank
    assert cell.losses == (3.0, round(cell.loss, 5))
    assert cell.bits_per_byte == cell.loss / 2
    assert len(cell.made.date) == 10 and cell.made.machine and cell.made.jax
    assert cell.made.seconds >= 0


def test_what_cannot_change_the_numbers_is_not_in_it(stored):
    names = {name.split(".")[-1] for name in load_cell(stored[0]).configuration}
    free = {"cache_dir", "run_dir", "wandb", "profile", "keep", "remat", "mesh"}
    assert not names & (free | {"checkpoint_every", "eval_every", "coordinator"})


def test_a_trained_cell_is_not_trained_again(stored):
    path, trained = stored
    free = dataclasses.replace(CONFIG, keep=9, run_dir="x", mesh="data:2")
    for config in (CONFIG, free):
        assert run_cell("LOST", config, directory=path.parent) == load_cell(path)
    assert len(trained) == 1


def test_a_cell_from_before_a_field_stands_for_its_default(stored):
    path, trained = stored
    edit(path, lambda values: values["configuration"].pop("model.qk_norm"))
    run_cell("LOST", CONFIG, directory=path.parent)
    assert len(trained) == 1
    run_cell("LOST", with_model(qk_norm=True), directory=path.parent)
    assert len(trained) == 2, "the field is not at its default"
    assert load_cell(path).configuration["model.qk_norm"] is True


def test_a_cell_of_another_value_is_trained_again(stored, capsys):
    path, trained = stored
    run_cell("LOST", with_model(rank=5), directory=path.parent)
    assert [config.model.rank for config in trained] == [CONFIG.model.rank, 5]
    said = capsys.readouterr().err
    assert f"trained again: model.rank: {CONFIG.model.rank} there, 5 now" in said


def test_a_cell_with_a_field_that_is_gone_is_trained_again(stored):
    path, trained = stored
    edit(path, lambda values: values["configuration"].update({"model.gone": 1}))
    run_cell("LOST", CONFIG, directory=path.parent)
    assert len(trained) == 2


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_text(path.read_text()[:200]),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[]"),
        lambda path: edit(path, lambda values: values.pop("bits_per_byte")),
        lambda path: edit(path, lambda values: values.pop("made")),
        lambda path: edit(path, lambda values: values.update(loss="low")),
        lambda path: edit(path, lambda values: values.update(configuration=None)),
    ],
)
def test_a_broken_cell_is_named_and_trained_again(stored, break_it, capsys):
    path, trained = stored
    whole = load_cell(path)
    break_it(path)
    with pytest.raises(ValueError, match=f"{path.name}: not a cell"):
        load_cell(path)
    again = run_cell("LOST", CONFIG, directory=path.parent)
    assert len(trained) == 2 and again.loss == whole.loss
    assert "trained again" in capsys.readouterr().err
    assert load_cell(path) == again


def test_what_diverged_is_null_in_the_file(stored):
    path, _ = stored
    cell = load_cell(path)._replace(loss=math.inf, losses=(1.0, math.nan))
    save_cell(path, cell)
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    again = load_cell(path)
    assert math.isnan(again.loss) and math.isnan(again.losses[1])


def test_a_finished_cell_agrees_with_itself():
    from lostjax.train.config.fields import deciding_fields

    assert find_differences(deciding_fields(CONFIG), CONFIG) == []
