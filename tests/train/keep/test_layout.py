"""A run's directory holds files and folders: nothing leads out of it."""

import os
import shutil

import pytest

from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.keep.directory import choose_run_dir, find_run, hold_run_dir
from lostjax.train.keep.step_directories import commit, saving_dir

IDENTITY = {"vocab_size": 257, "train_hash": "ab"}


def make_run(directory, config):
    with hold_run_dir(directory, config, identity=IDENTITY, needed=0):
        pass


def config_for(path, **values):
    return TrainConfig(run_dir=str(path), **values)


def save_step(directory):
    (saving_dir(directory / "checkpoints", 10) / "model").mkdir(parents=True)
    commit(directory / "checkpoints", 10)


@pytest.mark.parametrize(
    "name",
    ["lock", "config.json", "data.json", "metrics.jsonl", "evaluations.jsonl",
     "stability.jsonl", "tokenizer.json", "report.html", "log.txt", "stopped.json",
     "checkpoints", "checkpoints/20", "checkpoints/10/model", "checkpoints/30.saving",
     "tensorboard",
     "tensorboard/events", "profile", "wandb"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_nothing_leads_out_of_a_runs_directory(tmp_path, name, kind):
    directory = tmp_path / "run"
    make_run(directory, config_for(directory))
    (directory / "checkpoints" / "10").mkdir(parents=True)
    (directory / "tensorboard").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("precious")
    path = directory / name
    target = {"link": tmp_path / "outside", "dangling": tmp_path / "gone"}.get(kind)
    if kind == "link" and "." in name:
        target = tmp_path / "outside" / "mine"
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target) if target else os.mkfifo(path)
    for refused in (
        lambda: choose_run_dir(config_for(directory)),
        lambda: find_run(str(directory)),
    ):
        with pytest.raises(ConfigError) as said:
            refused()
        assert "\n" not in str(said.value)
    assert str(path) in str(said.value) or name == "config.json"
    assert (tmp_path / "outside" / "mine").read_text() == "precious"
    assert not (tmp_path / "gone").exists()


def test_links_that_a_user_made_to_a_run_and_within_it_are_fine(tmp_path):
    make_run(tmp_path / "run", config_for(tmp_path / "link"))
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "run" / "notes").symlink_to(tmp_path)
    save_step(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best").symlink_to("10")
    assert find_run(str(tmp_path / "link")) == tmp_path / "link"
    assert choose_run_dir(config_for(tmp_path / "link"))
