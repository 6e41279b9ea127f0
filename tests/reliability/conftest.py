"""The real command line under a supervisor: started, looked at, stopped and killed."""

import functools
import os
import sys
from pathlib import Path

import pytest
from kept_programs import find_place, tidy

from lostjax.train.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))

from campaign.outcome import read_outcome
from campaign.supervisor import ROOT, TRAIN, Started, group_flags

STEPS, SAVE_EVERY, EVALUATE_EVERY = Started.steps, 6, Started.evaluate_every


@pytest.fixture(scope="session")
def environment():
    """JAX keeps what it compiled, so that a run that is started again is quick.

    In a place of their own: a process that is killed may leave half an entry.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    place = find_place() / f"killed-{worker}"
    tidy(place)
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(place),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


@pytest.fixture
def train_here(capsys, plain_report, compile_once):
    """Run the command line in this process: its exit code, and what it said."""

    def run(*words):
        capsys.readouterr()
        code = main(list(words))
        return code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def start(environment, tmp_path):
    """Start the command line; what still runs at the end of the test is killed."""
    started = []

    def begin(*words, program=TRAIN):
        log = tmp_path / f"log-{len(started)}"
        options = {"log": log, "environment": environment, "program": program}
        started.append(Started(words, **options))
        return started[-1]

    yield begin
    for run in started:
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="session")
def flags(text_file, cache_dir):
    return [
        "--preset=smoke",
        f"--data.source={text_file}",
        f"--data.cache-dir={cache_dir}",
        "--data.seq-len=32",
        f"--steps={STEPS}",
        f"--checkpoint-every={SAVE_EVERY}",
        f"--eval-every={EVALUATE_EVERY}",
    ]


@pytest.fixture(scope="session")
def uninterrupted(flags, environment, tmp_path_factory):
    """A run on one device that nothing happened to."""
    place = tmp_path_factory.mktemp("uninterrupted")
    words = [f"--run-dir={place / 'run'}", "--mesh=data:1", *flags]
    run = Started(words, log=place / "log", environment=environment)
    assert run.finish() == 0, run.said()
    return run.directory


@pytest.fixture(scope="session")
def outcome():
    """Read all that a run came to and that may not depend on what happened to it."""

    return functools.partial(read_outcome, steps=STEPS)


@pytest.fixture
def host_flags():
    """Give the flags that each of several processes on this machine gets."""

    return functools.partial(group_flags, mesh="data:4")
