"""Directories of checkpoints: what counts, what goes, what is never deleted."""

import pytest

from lostjax.disk.manifest import MANIFEST, find_damage
from lostjax.errors import ConfigError
from lostjax.train.keep.recovery import find_whole_step, summarise_damage
from lostjax.train.keep.step_directories import (
    commit,
    delete_after,
    list_bare_steps,
    list_set_aside,
    list_steps,
    remove_leftovers,
    retain,
    saving_dir,
    set_aside,
    step_dir,
)


def save(directory, *steps):
    for step in steps:
        (saving_dir(directory, step) / "model").mkdir(parents=True)
        (saving_dir(directory, step) / "model" / "0").write_text(f"weights {step}")
        commit(directory, step)


def damage(directory, step):
    (step_dir(directory, step) / "model" / "0").write_text(f"Weights {step}")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_step_counts_once_its_manifest_is_there(tmp_path):
    assert list_steps(tmp_path / "none") == []
    (saving_dir(tmp_path, 10)).mkdir()
    assert list_steps(tmp_path) == []
    commit(tmp_path, 10)
    save(tmp_path, 9, 100)
    (tmp_path / "50").mkdir()
    for other in ("07", "x", "8.damaged", "-1", "١"):
        (tmp_path / other).mkdir()
        (tmp_path / other / MANIFEST).write_text("")
    (tmp_path / "11").write_text("a file")
    assert list_steps(tmp_path) == [9, 10, 100]
    assert list_bare_steps(tmp_path) == [50]
    assert list_set_aside(tmp_path) == [tmp_path / "8.damaged"]


def test_a_step_that_cannot_be_hashed_is_not_committed(tmp_path):
    saving_dir(tmp_path, 5).mkdir()
    (saving_dir(tmp_path, 5) / MANIFEST).mkdir()  # no file can take its name
    with pytest.raises(OSError):
        commit(tmp_path, 5)
    assert list_steps(tmp_path) == list_bare_steps(tmp_path) == []


def test_retention_counts_committed_steps_alone(tmp_path):
    save(tmp_path, 1, 2, 3)
    (tmp_path / "7").mkdir()
    set_aside(tmp_path, 1)
    saving_dir(tmp_path, 8).mkdir()
    retain(tmp_path, keep=1)
    assert names(tmp_path) == ["1.damaged", "3", "7", "8.saving"]
    retain(tmp_path, keep=1)
    assert list_steps(tmp_path) == [3]


def test_a_step_that_is_gone_back_to_stays_and_later_ones_go(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    retain(tmp_path, keep=1, also=2)
    assert names(tmp_path) == ["2", "4"]
    retain(tmp_path, keep=1, also=7)
    assert names(tmp_path) == ["4"]
    save(tmp_path, 5, 10)
    (tmp_path / "11").mkdir()
    delete_after(tmp_path, 4)
    assert names(tmp_path) == ["11", "4"]


def test_leftovers_go_and_what_was_set_aside_stays(tmp_path):
    save(tmp_path, 1, 2)
    set_aside(tmp_path, 2)
    save(tmp_path, 2)
    assert set_aside(tmp_path, 2) == tmp_path / "2.damaged-2"
    for left in (
        "3.saving",
        "3.saving.orbax-checkpoint-tmp",
        "4.orbax-checkpoint-tmp-5",
        "0.deleting",
    ):
        (tmp_path / left / "model").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["1", "2.damaged", "2.damaged-2"]


def test_the_newest_whole_step_is_taken_and_newer_ones_set_aside(tmp_path, capsys):
    assert find_whole_step(tmp_path) is None
    save(tmp_path, 1, 2, 3, 4)
    assert find_whole_step(tmp_path) == 4
    damage(tmp_path, 1)
    damage(tmp_path, 3)
    (step_dir(tmp_path, 4) / MANIFEST).unlink()
    assert find_whole_step(tmp_path) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "falling back to step 2" in said[0]
    assert "checkpoint 4 is damaged (manifest.json is missing): set aside as" in said[0]
    assert "checkpoint 3 is damaged (model/0: bytes 0 to 9 differ)" in said[1]
    assert names(tmp_path) == ["1", "2", "3.damaged", "4.damaged"]
    assert (tmp_path / "3.damaged" / "model" / "0").read_text() == "Weights 3"


def test_a_step_that_is_wanted_is_taken_where_it_is_whole(tmp_path, capsys):
    save(tmp_path, 1, 2, 3)
    assert find_whole_step(tmp_path, first=2) == 2
    assert find_whole_step(tmp_path, first=7) == 3
    damage(tmp_path, 2)
    assert find_whole_step(tmp_path, first=2) == 3
    assert "set aside" in capsys.readouterr().err
    assert names(tmp_path) == ["1", "2.damaged", "3"]


def test_where_none_is_whole_they_are_listed_and_nothing_is_touched(tmp_path):
    save(tmp_path, 1, 2)
    damage(tmp_path, 1)
    (step_dir(tmp_path, 2) / "model" / "0").unlink()
    with pytest.raises(ConfigError) as caught:
        find_whole_step(tmp_path)
    said = str(caught.value)
    assert "no checkpoint is whole (step 2: model/0: is missing; step 1: " in said
    assert names(tmp_path) == ["1", "2"]


def test_checkpoints_of_earlier_versions_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "10").mkdir()
    with pytest.raises(ConfigError, match=r"\(steps 10\) have no manifest.*--adopt"):
        find_whole_step(tmp_path)
    assert names(tmp_path) == ["10"]


def test_much_damage_is_said_in_few_words(tmp_path):
    assert summarise_damage(["a: is missing"]) == "a: is missing"
    assert summarise_damage(list("abcd")) == "a, b and 2 files more"
    save(tmp_path, 1)
    assert find_damage(step_dir(tmp_path, 1)) == []
