"""A clock that is set, back or forward: nothing that a run comes to depends on it."""

import signal
from pathlib import Path

from lostjax.train.keep.step_directories import list_steps

SCRIPT = Path(__file__).with_name("moving_clock.py")


def test_a_run_whose_clock_is_set_all_the_time_is_the_same_run(
    uninterrupted, outcome, flags, start, tmp_path
):
    words = [f"--run-dir={tmp_path / 'run'}", "--mesh=data:1", *flags]
    run = start(*words, program=[str(SCRIPT)])
    run.wait_for_step(15)
    run.send(signal.SIGKILL)
    assert run.finish() == -signal.SIGKILL
    kept = list_steps(run.directory / "checkpoints")
    again = start(*words, program=[str(SCRIPT)])
    assert again.finish() == 0, again.said()
    assert f"resuming at step {max(kept)}" in again.said()
    assert outcome(run.directory) == outcome(uninterrupted)
