"""Too few open files: refused before the run, said during it, and never waited for."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lostjax.train.keep.arrays.store import _show_unraisable

ROOT = Path(__file__).parents[3]
START = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:])))
from lostjax.errors import ConfigError
from lostjax.train.keep.open_files import provide_open_files
try:
    provide_open_files()
except ConfigError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
SAVES = """
import os, resource, sys
from pathlib import Path
import jax.numpy as jnp
from lostjax.steps.state import TrainState
from lostjax.train.keep.arrays import store as arrays
from lostjax.train.keep.checkpoints import open_checkpoints

names = [f"w{number}" for number in range(20)]
state = TrainState(jnp.zeros(()), jnp.zeros(()), dict.fromkeys(names, jnp.ones(9)),
                   {}, {}, None, {})
save = arrays.ArrayStore.save
limit = most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

def save_with_few(self, *words, **items):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    save(self, *words, **items)

arrays.ArrayStore.save = save_with_few
failed = 0
with open_checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
    checkpoints.save(state, step=1)
    checkpoints.wait()
    for number in range(24):
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        limit = free + number
        checkpoints.save(state, step=2 + number)
        checkpoints.wait()
        failed += checkpoints.failed_step is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limit = free + 32  # too few for a save to be tried at all
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    print("untried", file=sys.stderr)
    checkpoints.save(state, step=98)
    checkpoints.wait()
    print("done", file=sys.stderr)
    assert checkpoints.failed_step == 98
    limit = most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    checkpoints.save(state, step=99)
    checkpoints.wait()
    assert checkpoints.holds(99)
assert failed >= 4, failed
"""


@pytest.mark.parametrize(
    "own, most, said",
    [
        (24, 24, "ulimit -n is 24: a run needs at least 128 open files"),
        (24, 1000, "(1000, 1000)"),
        (999, 8000, "(4096, 8000)"),
        (5000, 8000, "(5000, 8000)"),
    ],
)
def test_a_low_limit_is_raised_or_refused(own, most, said):
    done = subprocess.run(
        [sys.executable, "-c", START, str(own), str(most)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == said + "\n", done.stderr


def test_a_save_without_open_files_fails_alone_and_nothing_waits_for_it(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SAVES, str(tmp_path / "checkpoints")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert time.monotonic() - began < 100
    assert "(Too many open files)" in done.stderr
    untried = done.stderr.partition("untried\n")[2].partition("done\n")[0]
    assert untried.startswith("checkpoint 98 could not be saved (Too many open files)")
    assert untried.count("\n") == 1


def test_an_event_loop_that_got_no_open_files_ends_without_a_traceback(
    monkeypatch, capsys
):
    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    class Careless:
        def __del__(self):
            raise AttributeError("ours")

    monkeypatch.setattr(sys, "unraisablehook", _show_unraisable)
    monkeypatch.setattr(socket, "socketpair", fail)
    with contextlib.suppress(OSError):
        asyncio.new_event_loop()
    gc.collect()
    assert capsys.readouterr().err == ""
    Careless()
    assert "AttributeError: ours" in capsys.readouterr().err
