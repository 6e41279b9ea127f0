"""Several processes: what they refuse together, and how one ends without the others."""

import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from lostjax.errors import ConfigError
from lostjax.train.config.schema import HostsConfig
from lostjax.train.devices import joining
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
        self.out, said = process.communicate(timeout=60)
        lines = said.splitlines(keepends=True)
        self.waits = [line for line in lines if line.startswith("waiting for ")]
        """Lines that a slow machine adds."""
        self.err = "".join(line for line in lines if line not in self.waits)
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


def test_the_others_are_waited_for_aloud_and_for_a_while_only():
    (process,) = join(2, "alone", started=1)
    assert process.code == 2
    where = process.err.partition(" at ")[2].partition(";")[0]
    assert process.err == (
        f"--hosts: process 0 waited 3 s (--hosts.wait) in vain for process 1 of 2 at "
        f"{where}; start all processes again\n"
    )
    assert process.waits[:2] == [
        f"waiting for process 1 of 2 at {where} ({seconds} s; gives up after 3 s)\n"
        for seconds in (1, 2)
    ]


@pytest.mark.parametrize(
    "place",
    [
        "of the first",
        pytest.param("of another", marks=pytest.mark.slow),
        pytest.param("in a cluster", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_a_process_that_waits_for_the_others(place):
    index = 1 if place == "of another" else 0
    what = "interrupted in a cluster" if place == "in a cluster" else "interrupted"
    words = [sys.executable, str(SCRIPT), str(free_port()), "2", str(index), what]
    process = subprocess.Popen(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        end = Ended(process)
    finally:
        process.kill()
    who = "the other processes" if place == "in a cluster" else f"process {1 - index} "
    assert line.startswith(f"waiting for {who}"), line
    assert (end.code, end.err) == (130, "")


def test_ctrl_c_ends_a_process_whose_neighbour_prepares_its_text():
    first, other = join(2, "interrupted for a text")
    assert first.waits[0] == (
        "waiting for the other processes, to compare their data (1 s)\n"
    )
    assert (first.code, first.out, first.err) == (130, "agreed\n", "")
    assert other.code == 1 and other.err == (
        "process 1 of 2 ends, because process 0 did; its own message says why\n"
    )


def test_a_line_names_a_few_of_many_missing_processes():
    line = types.SimpleNamespace(list_missing=lambda: list(range(1, 9)))
    hosts = HostsConfig("host0:1234", processes=9, index=0)
    missing = joining._Missing(hosts)
    missing.note(ConnectionRefusedError(111, "Connection refused"))
    of = "of 9 at host0:1234"
    assert missing.describe() == f"process 0 {of} (Connection refused)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "find_lifeline", lambda: line)
        assert missing.describe() == f"processes 1, 2, 3, 4 and 4 more {of}"
        line.list_missing = lambda: [3, 5]
        assert missing.describe() == f"processes 3 and 5 {of}"
        line.list_missing = lambda: [3]
        assert missing.describe() == f"process 3 {of}"


def test_a_second_start_is_refused_and_all_hear_how_each_process_ends():
    port = free_port()
    beside = start_beside(port=port, processes=3, silent_seconds=60)
    admitted = [
        connect("localhost", port, index=index, processes=3) for index in range(3)
    ]
    assert all(connection.service_port for connection in admitted)
    admitted[0].socket.settimeout(20)
    news = [admitted[0].lines.readline() for _ in range(2)]
    assert news == ["joined 1\n", "joined 2\n"]
    assert admitted[2].lines.readline() == "joined 0\n"
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
