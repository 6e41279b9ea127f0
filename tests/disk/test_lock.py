"""One writer a run: refused while another lives, taken over when it is dead."""

import errno
import fcntl
import json
import math
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from lostjax.disk.lock import LOCK, drop_lock, hold_lock
from lostjax.errors import ConfigError

HOLD = """
import sys, pathlib
from lostjax.disk.lock import hold_lock
with hold_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_lock_is_there_while_it_is_held(tmp_path):
    with hold_lock(tmp_path):
        named = json.loads((tmp_path / LOCK).read_text())
        assert named["process"] == os.getpid() and named["host"] == socket.gethostname()
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} on"),
            hold_lock(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_a_living_process_is_named_and_a_dead_one_taken_over(tmp_path, other):
    whose = f"process {other.pid} on {socket.gethostname()} is writing this run"
    with pytest.raises(ConfigError, match=whose), hold_lock(tmp_path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == other.pid
    with hold_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_file_that_its_owner_removed_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    flock = fcntl.flock

    def let_the_owner_remove_it_first(handle, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / LOCK).unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", let_the_owner_remove_it_first)
    with hold_lock(tmp_path):
        named = json.loads((tmp_path / LOCK).read_text())
        assert named["process"] == os.getpid()
        with pytest.raises(ConfigError, match="is writing"), hold_lock(tmp_path):
            pass


def test_a_lock_that_somebody_removed_still_holds_the_directory(tmp_path, other):
    (tmp_path / LOCK).unlink()
    with (
        pytest.raises(ConfigError, match="holds this directory, as a run does"),
        hold_lock(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())
    other.communicate("")
    with hold_lock(tmp_path):
        pass


def test_a_directory_that_cannot_be_locked_has_a_lock_all_the_same(
    tmp_path, monkeypatch
):
    flock = fcntl.flock

    def as_on_a_network(handle, how):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", as_on_a_network)
    with (
        hold_lock(tmp_path),
        pytest.raises(ConfigError, match="is writing"),
        hold_lock(tmp_path),
    ):
        pass


def test_a_process_that_ends_lets_go(tmp_path, other):
    other.communicate("")
    assert other.returncode == 0 and not list(tmp_path.iterdir())


def test_where_it_cannot_be_removed_it_is_let_go_all_the_same(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch, hold_lock(tmp_path):
        patch.setattr("pathlib.Path.unlink", refuse)
    with hold_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_who_leaves_in_haste_drops_its_own_lock_alone(tmp_path, other):
    drop_lock(tmp_path)
    assert (tmp_path / LOCK).exists()
    other.communicate("")
    drop_lock(tmp_path)
    with hold_lock(tmp_path):
        drop_lock(tmp_path)
        assert not (tmp_path / LOCK).exists()


def test_another_host_is_refused_with_what_to_do(tmp_path):
    (tmp_path / LOCK).write_text(
        json.dumps({"process": 7, "host": "elsewhere", "boot": "another"})
    )
    with pytest.raises(ConfigError) as caught, hold_lock(tmp_path):
        pass
    said = str(caught.value)
    assert "process 7 on elsewhere" in said and f"remove {tmp_path / LOCK}" in said
    (tmp_path / LOCK).unlink()
    with hold_lock(tmp_path):
        pass


def test_a_container_that_died_and_came_again_by_another_name_goes_on(
    tmp_path, other, monkeypatch
):
    other.kill()
    other.wait()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-name")
    with hold_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["host"] == "another-name"


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with hold_lock(tmp_path):
        assert "its file system has no locks" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


CRAFTED = [
    {"process": math.inf, "host": "a", "boot": ""},
    {"process": 1e999, "host": "a", "boot": ""},
    {"process": True, "host": "a", "boot": ""},
    {"process": 7, "host": "one\nline", "boot": ""},
    {"process": 7, "host": ["a"], "boot": ""},
    {"process": 7, "host": "a", "boot": {}},
]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"process": "x"}',
        "\x00" * 99,
        "[" * 4000,
        *map(json.dumps, CRAFTED),
    ],
)
def test_a_torn_lock_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with hold_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def make_link(path, target):
    path.symlink_to(target)


def make_second_name(path, target):
    target.touch()
    path.hardlink_to(target)


def make_pipe(path, target):
    os.mkfifo(path)


def make_directory(path, target):
    path.mkdir()


@pytest.mark.parametrize("content", ["precious", None])
@pytest.mark.parametrize(
    "make", [make_link, make_second_name, make_pipe, make_directory]
)
def test_what_is_no_lock_file_is_refused_and_what_it_leads_to_is_left_alone(
    tmp_path, make, content
):
    target = tmp_path / "outside"
    (tmp_path / "run").mkdir()
    if content:
        target.write_text(content)
    make(tmp_path / "run" / LOCK, target)
    refused = pytest.raises(ConfigError, match="is not a lock file; remove it")
    with refused as said, hold_lock(tmp_path / "run"):
        pass
    assert str(tmp_path / "run" / LOCK) in str(said.value)
    drop_lock(tmp_path / "run")
    assert not content or target.read_text() == content
    assert content or make is make_second_name or not target.exists()
