"""A run's directory that goes away: made anew, or left to whoever has its name."""

import contextlib
import json
import shutil

import pytest

from lostjax.disk.lines import AppendingFile
from lostjax.disk.lock import LOCK, hold_lock
from lostjax.train.keep.held_directory import HeldDirectory


@pytest.fixture
def hold(tmp_path):
    @contextlib.contextmanager
    def make_and_lock():
        (tmp_path / "run").mkdir(exist_ok=True)
        with hold_lock(tmp_path / "run"):
            yield

    return make_and_lock


def test_a_directory_that_is_there_is_left_alone(tmp_path, hold, capsys):
    with HeldDirectory(tmp_path / "run", hold) as held:
        (tmp_path / "run" / "x").touch()
        held.ensure()
        assert (tmp_path / "run" / LOCK).exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("way", [shutil.rmtree, lambda run: run.rename(run / "../b")])
def test_a_directory_that_is_gone_is_made_anew_with_its_lines(
    tmp_path, hold, capsys, way
):
    run = tmp_path / "run"
    with (
        HeldDirectory(run, hold) as held,
        contextlib.closing(AppendingFile(run / "lines")) as file,
    ):
        file.write(b"one\n")
        way(run)
        file.write(b"two\n")
        assert not run.exists()
        held.ensure()
        held.ensure()
        file.write(b"three\n")
        file.write(b"four\n")
        assert (run / "lines").read_bytes() == b"one\ntwo\nthree\nfour\n"
        assert json.loads((run / LOCK).read_text())["process"]
        assert capsys.readouterr().err.count("was deleted or renamed") == 1
    assert [path.name for path in run.iterdir()] == ["lines"]


def test_a_folder_of_the_directory_that_is_gone_is_made_anew(tmp_path, hold):
    folder = tmp_path / "run" / "tensorboard"
    with HeldDirectory(tmp_path / "run", hold):
        folder.mkdir()
        with contextlib.closing(AppendingFile(folder / "events")) as file:
            file.write(b"one\n")
            shutil.rmtree(folder)
            file.write(b"two\n")
            file.write(b"three\n")
        assert (folder / "events").read_bytes() == b"one\ntwo\nthree\n"


def test_another_directory_of_that_name_is_left_alone(tmp_path, hold):
    run = tmp_path / "run"
    with (
        HeldDirectory(run, hold) as held,
        contextlib.closing(AppendingFile(run / "lines")) as file,
    ):
        run.rename(tmp_path / "moved")
        run.mkdir()
        (run / LOCK).write_text("another run's")
        with pytest.raises(OSError, match="is another directory than it was"):
            held.ensure()
        file.write(b"one\n")
    assert [path.name for path in run.iterdir()] == [LOCK]
    assert (run / LOCK).read_text() == "another run's"
    assert (tmp_path / "moved" / "lines").read_bytes() == b"one\n"


def test_a_directory_that_cannot_be_made_anew_is_an_error(tmp_path, hold, capsys):
    with HeldDirectory(tmp_path / "run", hold) as held:
        shutil.rmtree(tmp_path)
        tmp_path.touch()
        with pytest.raises(OSError):
            held.ensure()
    tmp_path.unlink()
    tmp_path.mkdir()


@pytest.mark.parametrize("way", ["deleted", "changed", "deleted with the directory"])
def test_files_that_describe_a_run_are_written_again(tmp_path, hold, capsys, way):
    run = tmp_path / "run"
    with HeldDirectory(run, hold) as held:
        (run / "a").write_bytes(b"content")
        held.keep_files(["a", "b"])
        held.ensure()
        assert not capsys.readouterr().err
        if way == "changed":
            (run / "a").write_bytes(b"other")
        else:
            (run / "a").unlink() if way == "deleted" else shutil.rmtree(run)
        held.ensure()
        held.ensure()
        assert (run / "a").read_bytes() == b"content"
    assert capsys.readouterr().err.count("\n") == 1
    assert (run / "a.damaged").exists() is (way == "changed")
    assert not (run / "b").exists()
