"""The real command line under a supervisor: started, looked at, stopped and killed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lostjax.train.__main__ import main
from lostjax.train.log.json_lines import CLOCK_FIELDS, read_evaluations, read_metrics

ROOT = Path(__file__).parents[2]
TRAIN = ("-m", "lostjax.train")
STEPS, SAVE_EVERY, EVALUATE_EVERY = 24, 6, 3


class Started:
    """A run's process, and what it said."""

    def __init__(self, words, *, log, environment, program=TRAIN):
        self.directory = Path(
            next(word for word in words if word.startswith("--run-dir="))[10:]
        )
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *program, *words],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of these tests is not theirs
            )

    def said(self):
        return self._log.read_text()

    def send(self, number):
        self.process.send_signal(number)

    def is_frozen(self):
        """Wait until the process that was sent SIGSTOP stops, or say that it ended."""
        if self.process.returncode is not None:
            return False
        what = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, what).si_code == os.CLD_STOPPED

    def finish(self, timeout=600):
        """Give the exit code, negative where a signal ended it."""
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()

    def wait_until(self, true, timeout=600):
        """Wait for something while the process lives; say whether it came."""
        deadline = time.monotonic() + timeout
        while not true():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.001)
        return True

    def wait_for_step(self, step):
        assert self.wait_until(lambda: self.steps_done() >= step), self.said()

    def steps_done(self):
        return len(read_metrics(self.directory)) if self.directory.exists() else 0


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """JAX keeps what it compiled, so that a run that is started again is quick.

    In a place of their own: a process that is killed may leave half an entry.
    """
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
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

    def read(directory):
        lines = {
            "metrics": read_metrics(directory),
            "evaluations": read_evaluations(directory),
        }
        for name, rows in lines.items():
            lines[name] = [
                {k: v for k, v in row.items() if k not in CLOCK_FIELDS} for row in rows
            ]
        files = {
            str(path.relative_to(directory))
            for path in (*directory.iterdir(), *directory.glob("checkpoints/*"))
        }
        return lines | {"files": files, "arrays": _stored_bits(directory)}

    return read


def _stored_bits(directory):
    bits = {}
    for item in ("model", "progress"):
        path = directory / "checkpoints" / str(STEPS) / item
        reader = ocp.PyTreeCheckpointer()
        shapes = reader.metadata(path.absolute()).item_metadata.tree
        whole = ocp.RestoreArgs(restore_type=np.ndarray)  # by however many processes
        wanted = jax.tree.map(lambda _, whole=whole: whole, shapes)
        tree = reader.restore(path.absolute(), restore_args=wanted)
        for key, leaf in jax.tree_util.tree_leaves_with_path(tree):
            bits[item + jax.tree_util.keystr(key)] = np.asarray(leaf).tobytes()
    return bits


@pytest.fixture
def host_flags():
    """Give the flags that each of several processes on this machine gets."""

    def of(processes, *, mesh="data:4"):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        common = [
            f"--hosts.coordinator=127.0.0.1:{port}",
            f"--hosts.processes={processes}",
            f"--mesh={mesh}",
        ]
        return [[*common, f"--hosts.index={index}"] for index in range(processes)]

    return of
