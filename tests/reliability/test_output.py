"""A terminal that is closed, a pipe that nobody reads: the run saves, and logs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lostjax.train.keep.step_directories import list_steps
from lostjax.train.log.json_lines import read_metrics

ON_A_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'lostjax.train', *sys.argv[1:]])\n"
)
LONG = ["--mesh=data:1", "--eval-every=0", "--checkpoint-every=20000"]


@pytest.fixture
def words(flags, tmp_path):
    """A run that would take minutes."""
    kept = [word for word in flags if "every" not in word and "--steps" not in word]
    return [f"--run-dir={tmp_path / 'run'}", *kept, *LONG, "--steps=100000"]


def wait_for_steps(run, process, count):
    deadline = time.monotonic() + 300
    while not run.exists() or len(read_metrics(run)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def assert_stopped_well(run, *, by):
    steps = len(read_metrics(run))
    assert list_steps(run / "checkpoints") == [steps]
    log = (run / "log.txt").read_text()
    assert f"{run}: starting; " in log
    assert f"\nstep {steps}  stopped by {by}\n" in log
    assert not (run / "lock").exists()


def test_a_run_whose_terminal_is_closed_saves_and_stops(words, environment, tmp_path):
    parent, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *words],
        env=environment | {"TERM": "xterm"},
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    wait_for_steps(tmp_path / "run", process, 3)
    os.close(parent)  # the kernel sends SIGHUP
    process.send_signal(signal.SIGHUP)  # and the shell sends another
    assert process.wait(60) == 129
    assert_stopped_well(tmp_path / "run", by="SIGHUP")


@pytest.mark.torture
def test_a_run_that_nobody_reads_goes_on_and_saves_when_asked(
    words, environment, tmp_path
):
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "lostjax.train", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=full,
        )
    process.stdout.close()
    wait_for_steps(tmp_path / "run", process, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert_stopped_well(tmp_path / "run", by="SIGTERM")
