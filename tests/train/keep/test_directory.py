"""Run directories: which are taken, which refused, and that refusing leaves none."""

import dataclasses
import os
import shutil
import time

import pytest

from lostjax.disk.manifest import write_manifest
from lostjax.errors import ConfigError
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_config
from lostjax.train.keep.directory import (
    RUNS,
    choose_run_dir,
    find_run,
    hold_run_dir,
)
from lostjax.train.keep.identity import check_same_data

IDENTITY = {"vocab_size": 257, "train_hash": "ab"}


def make_run(directory, config, *, needed=0):
    with hold_run_dir(directory, config, identity=IDENTITY, needed=needed):
        pass


def config_for(path, **values):
    return TrainConfig(run_dir=str(path), **values)


def test_a_new_run_gets_a_new_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = choose_run_dir(TrainConfig())
    make_run(first, TrainConfig())
    second = choose_run_dir(TrainConfig())
    assert first != second and first.parent.name == "runs"
    assert load_config(first / "config.json") == TrainConfig()
    assert find_run("latest") == first


def test_latest_is_the_run_made_last_though_the_clock_was_set_back(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("b", "c", "a"):
        directory = RUNS / name
        make_run(directory, config_for(directory))
        assert find_run("latest") == directory
        assert (
            capsys.readouterr().err == f"latest: {directory} (it has no checkpoint)\n"
        )
        ahead = time.time() + 1e6  # and the next one is made by the right clock
        os.utime(directory / "config.json", (ahead, ahead))
    make_run(RUNS / "b", config_for(RUNS / "b"))  # went on; was not made anew
    assert find_run("latest") == RUNS / "a"


def test_the_same_run_is_taken_and_another_refused(tmp_path):
    config = config_for(tmp_path / "run")
    make_run(tmp_path / "run", config)
    assert choose_run_dir(config) == tmp_path / "run"
    assert choose_run_dir(dataclasses.replace(config, mesh="data:2"))
    with pytest.raises(ConfigError, match="--seed: 0 there, 1 now.*--resume="):
        choose_run_dir(dataclasses.replace(config, seed=1))
    with pytest.raises(
        ConfigError, match="another schedule .--steps: 600 there, 700 now.*--resume="
    ):
        choose_run_dir(dataclasses.replace(config, steps=700))


def test_a_refusal_names_what_blocks_and_the_way_to_go_on(tmp_path):
    config = config_for(tmp_path / "run")
    make_run(tmp_path / "run", config)
    asked = dataclasses.replace(replace_in(config, "data", source="other.txt"), steps=9)
    with pytest.raises(ConfigError) as caught:
        choose_run_dir(asked, flag="--resume")
    said = str(caught.value)
    assert said.startswith(f"--resume={tmp_path / 'run'}: ")
    assert "(--data.source: sotu there, other.txt now)" in said
    assert said.endswith(f"use --init-from={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match="name another directory$"):
        choose_run_dir(replace_in(config, "model", rank=4))


def test_strangers_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        choose_run_dir(config_for(tmp_path / "file"))
    with pytest.raises(ConfigError, match="holds files but no run"):
        choose_run_dir(config_for(tmp_path))


def test_a_full_disk_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="the checkpoints need"):
        make_run(tmp_path / "run", config_for(tmp_path / "run"), needed=10**18)
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_are_there_need_no_room_again(tmp_path, monkeypatch):
    config = config_for(tmp_path / "run")
    make_run(tmp_path / "run", config)
    step = tmp_path / "run" / "checkpoints" / "10"
    step.mkdir(parents=True)
    (step / "manifest.json").write_bytes(b"x" * 700)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    make_run(tmp_path / "run", config, needed=1700)
    with pytest.raises(ConfigError, match="1.00 kB are free.*checkpoints need 1.01 kB"):
        make_run(tmp_path / "run", config, needed=1710)
    assert (tmp_path / "run" / "config.json").exists()


def test_what_a_kill_before_the_first_file_left_is_no_obstacle(tmp_path):
    left = [tmp_path / ".config.json.x7_f2k1z.partly", tmp_path / "lock"]
    for path in left:
        path.write_text("")
    (tmp_path / ".making-abc").mkdir()
    assert choose_run_dir(config_for(tmp_path)) == tmp_path
    make_run(tmp_path, config_for(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "data.json"]


def test_other_data_is_refused_with_what_differs(tmp_path):
    check_same_data(tmp_path / "new", IDENTITY)
    make_run(tmp_path / "run", config_for(tmp_path / "run"))
    check_same_data(tmp_path / "run", IDENTITY)
    with pytest.raises(
        ConfigError, match=r"other data \(train_hash: ab there, cd now\)"
    ):
        check_same_data(tmp_path / "run", IDENTITY | {"train_hash": "cd"})


def test_latest_passes_over_runs_without_a_checkpoint_where_one_is_needed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(RUNS / name, config_for(RUNS / name))
    assert find_run("latest", with_checkpoint=True) == RUNS / "b"
    assert capsys.readouterr().err == "latest: runs/b (it has no checkpoint)\n"
    step = RUNS / "a" / "checkpoints" / "10"
    step.mkdir(parents=True)
    (step / "x").write_text("state")
    write_manifest(step)
    assert find_run("latest", with_checkpoint=True) == RUNS / "a"
    said = capsys.readouterr().err
    assert said == "latest: runs/a (runs/b is newer, but has no checkpoint)\n"
    assert find_run("latest") == RUNS / "b"
