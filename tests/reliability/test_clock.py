"""A clock that is set, back or forward: nothing that a run comes to depends on it."""

import importlib.util
import signal
from pathlib import Path

import pytest

from lostjax.train.keep.step_directories import list_steps

SCRIPT = Path(__file__).with_name("moving_clock.py")


@pytest.fixture
def moving_clock(monkeypatch):
    """Move this process's clock as the script moves that of its own."""
    spec = importlib.util.spec_from_file_location("moving_clock", SCRIPT)
    clock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clock)
    clock.move(monkeypatch.setattr)


@pytest.mark.slow
def test_a_run_whose_clock_is_set_all_the_time_is_the_same_run(
    uninterrupted, outcome, flags, start, train_here, moving_clock, tmp_path
):
    words = [f"--run-dir={tmp_path / 'run'}", "--mesh=data:1", *flags]
    run = start(*words, program=[str(SCRIPT)])
    run.wait_for_step(15)
    run.send(signal.SIGKILL)
    assert run.finish() == -signal.SIGKILL
    kept = list_steps(run.directory / "checkpoints")
    code, said = train_here(*words)
    assert code == 0, said
    assert f"resuming at step {max(kept)}" in said
    assert outcome(run.directory) == outcome(uninterrupted)
