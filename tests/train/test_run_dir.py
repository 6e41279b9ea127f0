"""Run directories: which are taken, which refused, and that refusing leaves none."""

import dataclasses

import pytest

from lostjax.train.config import ConfigError, TrainConfig
from lostjax.train.config_file import load_config
from lostjax.train.run_dir import choose_run_dir, find_run, make_run_dir


def config_for(path, **values):
    return TrainConfig(run_dir=str(path), **values)


def test_a_new_run_gets_a_new_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = choose_run_dir(TrainConfig())
    make_run_dir(first, TrainConfig(), needed=0)
    second = choose_run_dir(TrainConfig())
    assert first != second and first.parent.name == "runs"
    assert load_config(first / "config.json") == TrainConfig()
    assert find_run("latest") == first


def test_the_same_run_is_taken_and_another_refused(tmp_path):
    config = config_for(tmp_path / "run")
    make_run_dir(tmp_path / "run", config, needed=0)
    assert choose_run_dir(config) == tmp_path / "run"
    assert choose_run_dir(dataclasses.replace(config, mesh="data:2"))
    with pytest.raises(ConfigError, match="--seed: 0 there, 1 now.*--resume="):
        choose_run_dir(dataclasses.replace(config, seed=1))
    with pytest.raises(ConfigError, match="600 steps and cannot become 700.*new run"):
        choose_run_dir(dataclasses.replace(config, steps=700))


def test_strangers_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        choose_run_dir(config_for(tmp_path / "file"))
    with pytest.raises(ConfigError, match="holds files but no run"):
        choose_run_dir(config_for(tmp_path))


def test_a_full_disk_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="the checkpoints need"):
        make_run_dir(tmp_path / "run", config_for(tmp_path / "run"), needed=10**18)
    assert not (tmp_path / "run").exists()
