"""The configuration and the text of a run: vouched for, restored, or refused."""

import json
import os

import pytest

from lostjax.errors import ConfigError
from lostjax.train.__main__ import parse_command
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_config, load_run_config, save_config
from lostjax.train.keep.directory import choose_run_dir, hold_run_dir
from lostjax.train.keep.identity import check_same_data
from lostjax.train.keep.step_directories import commit, saving_dir

IDENTITY = {"vocab_size": 257, "train_hash": "ab"}


def make_run(directory, config):
    with hold_run_dir(directory, config, identity=IDENTITY, needed=0):
        pass


def config_for(path, **values):
    return TrainConfig(run_dir=str(path), **values)


def flips(data, *, step=1):
    """Yield the bytes with each of their bits flipped, or every step-th one."""
    for number in range(0, 8 * len(data), step):
        flipped = bytearray(data)
        flipped[number // 8] ^= 1 << number % 8
        yield bytes(flipped)


def save_step(directory):
    (saving_dir(directory / "checkpoints", 10) / "model").mkdir(parents=True)
    commit(directory / "checkpoints", 10)


@pytest.mark.parametrize("step", [33, pytest.param(1, marks=pytest.mark.torture)])
def test_no_flipped_bit_of_a_configuration_is_ever_taken(tmp_path, step):
    config = config_for(tmp_path / "run")
    make_run(tmp_path / "run", config)
    path = tmp_path / "run" / "config.json"
    for flipped in flips(path.read_bytes(), step=step):
        path.write_bytes(flipped)
        with pytest.raises(ConfigError, match=r"config\.json: ") as said:
            load_run_config(tmp_path / "run")
        assert "\n" not in str(said.value)
        with pytest.raises(ConfigError):
            load_config(path) if b'"hash"' in flipped else load_run_config(path.parent)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["optim"].update(learning_rate=1.0),
        lambda values: values.update(keep=9),
        lambda values: values.pop("hash"),
        lambda values: None,  # written again by an editor
    ],
)
def test_an_edited_configuration_is_refused_with_the_right_way(tmp_path, edit):
    make_run(tmp_path / "run", config_for(tmp_path / "run"))
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    other = config_for(tmp_path / "run", keep=9)
    for refused in (
        lambda: parse_command([f"--resume={tmp_path / 'run'}"]),
        lambda: choose_run_dir(other),
    ):
        with pytest.raises(ConfigError, match="was edited.*--keep=5.*--config=") as e:
            refused()
        assert "\n" not in str(e.value)


def test_an_edited_copy_is_taken_once_its_hash_is_removed(tmp_path):
    save_config(tmp_path / "mine.json", TrainConfig())
    values = json.loads((tmp_path / "mine.json").read_text()) | {"steps": 7}
    (tmp_path / "mine.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match='remove its last field, "hash"'):
        parse_command([f"--config={tmp_path / 'mine.json'}"])
    del values["hash"]
    (tmp_path / "mine.json").write_text(json.dumps(values))
    assert parse_command([f"--config={tmp_path / 'mine.json'}"]).config.steps == 7


@pytest.mark.parametrize("place", ["text", "hash", "without --run-dir"])
def test_the_command_line_of_a_run_restores_its_configuration(tmp_path, capsys, place):
    config = config_for(tmp_path / "run")
    began = TrainConfig() if place == "without --run-dir" else config
    make_run(tmp_path / "run", began)
    path = tmp_path / "run" / "config.json"
    whole, date = path.read_bytes(), path.stat().st_mtime_ns
    damaged = whole.replace(b'"seed": 0', b'"seed": 1')
    if place == "hash":
        damaged = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    path.write_bytes(damaged)
    os.utime(path, ns=(date, date))
    with pytest.raises(ConfigError, match=r"config\.json: "):
        choose_run_dir(config_for(tmp_path / "run", seed=1))
    make_run(choose_run_dir(config), config)
    assert "config.json: was damaged: kept as" in capsys.readouterr().err
    assert path.read_bytes() == whole and path.stat().st_mtime_ns == date
    assert (tmp_path / "run" / "config.json.damaged").read_bytes() == damaged


def test_damage_of_what_tells_the_text_is_repaired_or_refused(tmp_path, capsys):
    directory = tmp_path / "run"
    config = config_for(directory)
    make_run(directory, config)
    save_step(directory)
    path = directory / "data.json"
    whole = path.read_bytes()
    for flipped in flips(whole):
        path.write_bytes(flipped)
        with pytest.raises(ConfigError, match=r"data\.json: |other data"):
            check_same_data(directory, IDENTITY | {"train_hash": "cd"})
        check_same_data(directory, IDENTITY)  # one bit still tells that it is the same
    make_run(directory, config)
    assert path.read_bytes() == whole and "data.json: " in capsys.readouterr().err
    for damage in (b"", b"[]", bytes(len(whole)), whole[:40], b"{}", None):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(ConfigError, match=r"data\.json: .*restore the.*--adopt"):
            check_same_data(directory, IDENTITY)


def test_a_start_that_was_killed_before_its_data_was_told_goes_on(tmp_path):
    make_run(tmp_path / "run", config_for(tmp_path / "run"))
    (tmp_path / "run" / "data.json").unlink()
    check_same_data(tmp_path / "run", IDENTITY)
    make_run(tmp_path / "run", config_for(tmp_path / "run"))
    assert (tmp_path / "run" / "data.json").exists()


def make_old(directory):
    """Turn a run into one of a version that wrote no hashes."""
    for path in (directory / "config.json", directory / "data.json"):
        values = json.loads(path.read_text())
        del values["hash"]
        values |= {"version": 2} if "version" in values else {}
        path.write_text(json.dumps(values, indent=2))


def test_a_run_without_hashes_goes_on_and_says_what_is_not_vouched_for(
    tmp_path, capsys
):
    config = config_for(tmp_path / "run")
    make_run(tmp_path / "run", config)
    make_old(tmp_path / "run")
    check_same_data(tmp_path / "run", IDENTITY)
    make_run(choose_run_dir(config), config)
    said = capsys.readouterr().err
    assert "no hash vouches for config.json, data.json; " in said
    assert said.count("\n") == 1 and f"verify {tmp_path / 'run'} --adopt" in said
