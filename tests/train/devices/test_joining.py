"""Several processes: what they refuse together, and how one ends without the others."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lostjax.errors import ConfigError
from lostjax.train.devices.lifeline import connect, start_beside

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("joined.py")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Ended:
    """A process's end."""

    def __init__(self, process):
        self.out, self.err = process.communicate(timeout=60)
        self.code = process.returncode
        self.at = time.monotonic()


def join(processes, what, *, started=None):
    """Start processes that do a thing; see how each of them ends."""
    words = [sys.executable, str(SCRIPT), str(free_port()), str(processes)]
    group = [
        subprocess.Popen(
            [*words, str(index), what],
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(started or processes)
    ]
    try:
        ends = [Ended(group[0])]
        if what == "freezes":
            group[1].kill()
        return ends + [Ended(process) for process in group[1:]]
    finally:
        for process in group:
            process.kill()


def test_other_flags_are_refused_by_name_before_anything_is_transferred():
    for process in join(2, "another seed"):
        assert process.code == 2 and not process.out
        assert process.err == (
            "--seed: 0 in process 0, 1 in process 1; start every process with the same "
            "flags\n"
        )


def test_a_directory_that_not_all_processes_see_is_refused():
    for process in join(2, "does not share"):
        assert process.code == 2 and process.out == "agreed\n"
        assert process.err == (
            "ostype: Linux in process 0, not there in process 1; start every process "
            "with the same file system\n"
        )


@pytest.mark.parametrize(
    "what, victim",
    [
        ("dies", 0),  # JAX answers the first one's death with an abort
        pytest.param("dies in a cluster", 1, marks=pytest.mark.torture),
    ],
)
def test_a_death_before_the_first_transfer_ends_the_others_with_a_line(what, victim):
    group = join(3, what)
    dead = group[victim]
    assert dead.code == -signal.SIGKILL
    for index, process in enumerate(group):
        if process is dead:
            continue
        assert process.at - dead.at < 3
        assert process.code == 1 and process.out == "agreed\nlast\n", process.err
        assert process.err == (
            f"process {index} of 3 cannot reach process {victim}, which died or lost "
            "its network; all processes end; start the run again to resume it from its "
            "newest checkpoint\n"
        )


@pytest.mark.parametrize(
    "what, code, said",
    [
        ("refuses", 2, "no text here\n"),
        pytest.param(
            "fails",
            1,
            "process 1 of 2 failed (a fault of the program); all processes end\n",
            marks=pytest.mark.torture,
        ),
    ],
)
def test_one_process_that_ends_before_its_time_ends_the_others(what, code, said):
    other, one = join(2, what)
    assert one.code == code and said in one.err
    assert other.code == 1 and other.err.count("\n") == 1
    ended = "process 0 of 2 ends, because process 1 did; its own message says why\n"
    gone = "process 0 of 2 cannot reach process 1, which died or lost its network"
    assert other.err == ended if what == "refuses" else other.err.startswith(gone)


def test_a_process_that_freezes_ends_the_others():
    other, frozen = join(2, "freezes")
    assert frozen.code == -signal.SIGKILL
    assert other.code == 1 and other.out == "agreed\nlast\n"
    assert other.err.startswith("process 0 of 2 cannot reach process 1, which died")


def test_a_process_that_dies_when_it_is_done_does_not_stop_the_others():
    """JAX waits at its exit for all processes, and aborts after a minute."""
    other, dead = join(2, "dies at its end")
    assert dead.code == -signal.SIGKILL
    assert (other.code, other.out, other.err) == (0, "agreed\n", "")


def test_the_others_are_waited_for_a_while_only():
    (process,) = join(2, "alone", started=1)
    assert process.code == 1
    assert process.err == (
        "process 0 waited 2 s for the others of its run, and not all came; start all "
        "processes again\n"
    )


def test_a_second_start_is_refused_and_all_hear_how_each_process_ends():
    port = free_port()
    beside = start_beside(port=port, processes=3, silent_seconds=60)
    admitted = [
        connect("localhost", port, index=index, processes=3) for index in range(3)
    ]
    assert all(connection.service_port for connection in admitted)
    admitted[0].socket.settimeout(20)
    with pytest.raises(ConfigError, match="process 1 of this run is running already"):
        connect("localhost", port, index=1, processes=3)
    with pytest.raises(ConfigError, match="processes=4, but process 0 has 3"):
        connect("localhost", port, index=3, processes=4)
    admitted[1].socket.sendall(b"done\n")
    assert admitted[0].lines.readline() == "done 1\n"
    for connection in admitted[1:]:
        connection.lines.close()
        connection.socket.close()
    ends = {admitted[0].lines.readline() for _ in range(2)}
    assert ends == {"gone 1\n", "gone 2\n"}
    with pytest.raises(ConnectionError, match="is about to end"):
        connect("localhost", port, index=2, processes=3, attempts=1)
    beside.process.stdin.close()
    admitted[0].lines.close()
    admitted[0].socket.close()
    assert beside.process.wait(10) == 0


def test_no_run_is_joined_at_another_ones_address():
    beside = start_beside(port=0, processes=1, silent_seconds=60)
    with pytest.raises(ConfigError, match="another run is at this address"):
        connect("localhost", beside.port, index=0, processes=1)
    token = {"token": beside.token}
    mine = connect("localhost", beside.port, index=0, processes=1, **token)
    assert mine.service_port == 0
    beside.process.kill()
    assert mine.lines.readline() == ""
