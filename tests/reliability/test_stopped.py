"""SIGTERM and Ctrl-C: saved within a step, a code that shells know, and no patience."""

import signal
import time

import pytest

from lostjax.train.keep.step_directories import list_steps
from lostjax.train.log.json_lines import read_evaluations

EVALUATE_EVERY = 3


def is_evaluating(run):
    if not run.directory.exists():
        return False
    evaluated = {line["step"] for line in read_evaluations(run.directory)}
    done = run.steps_done()
    return done > 0 and done % EVALUATE_EVERY == 0 and done not in evaluated


def is_saving(run):
    return any(run.directory.glob("checkpoints/*.saving*"))


def ask_while(true, run, number):
    """Send a signal to a process that was frozen while something was so."""
    while True:
        assert run.wait_until(lambda: true(run)), run.said()
        run.send(signal.SIGSTOP)
        assert run.is_frozen(), run.said()
        asked = true(run)
        if asked:
            run.send(number)
        run.send(signal.SIGCONT)
        if asked:
            return


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation_saves_and_goes_on_where_it_was(
    uninterrupted, outcome, flags, start, train_here, tmp_path
):
    words = [f"--run-dir={tmp_path / 'run'}", "--mesh=data:1", *flags]
    run = start(*words)
    ask_while(is_evaluating, run, signal.SIGINT)
    at = run.steps_done()
    assert run.finish() == 130, run.said()
    assert "SIGINT: saving and stopping; a second signal exits at once" in run.said()
    assert list_steps(run.directory / "checkpoints")[-1] == run.steps_done()
    assert run.steps_done() <= at + 1
    code, said = train_here(*words)
    assert code == 0, said
    assert outcome(run.directory) == outcome(uninterrupted)


def test_a_second_signal_leaves_at_once_also_while_saving(flags, start, tmp_path):
    larger = ["--model.d-model=256", "--mesh=data:1", "--eval-every=0"]
    flags = [word for word in flags if "eval-every" not in word]
    run = start(f"--run-dir={tmp_path / 'run'}", *flags, *larger)
    run.wait_for_step(7)
    run.send(signal.SIGTERM)
    assert run.wait_until(lambda: "saving and stopping" in run.said()), run.said()
    ask_while(is_saving, run, signal.SIGTERM)
    asked = time.monotonic()
    assert run.finish() == -signal.SIGTERM, run.said()  # shells make 143 of it
    assert time.monotonic() - asked < 2
    assert set(list_steps(run.directory / "checkpoints")) <= {6}


@pytest.mark.torture
def test_a_signal_while_compiling_leaves_nothing_but_the_run(
    uninterrupted, outcome, flags, start, tmp_path
):
    words = [f"--run-dir={tmp_path / 'run'}", "--mesh=data:1", *flags]
    for _ in range(2):
        run = start(*words)
        assert run.wait_until((run.directory / "lock").exists)
        run.send(signal.SIGTERM)
        assert run.finish() == 143, run.said()
        assert not list_steps(run.directory / "checkpoints")
    again = start(*words)
    assert again.finish() == 0, again.said()
    assert outcome(run.directory) == outcome(uninterrupted)


@pytest.mark.torture
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("moment", ["step", "evaluation"])
def test_several_processes_stop_at_the_same_step(
    flags, start, host_flags, tmp_path, processes, moment
):
    directory = tmp_path / "run"
    words = [f"--run-dir={directory}", *flags]
    group = [start(*words, *extra) for extra in host_flags(processes)]
    asked = group[-1]
    if moment == "evaluation":
        ask_while(is_evaluating, asked, signal.SIGTERM)
    else:
        asked.wait_for_step(3)
        asked.send(signal.SIGTERM)
    at = asked.steps_done()
    assert [run.finish() for run in group] == [143] * processes, asked.said()
    done = asked.steps_done()
    assert at <= done <= at + 3
    assert list_steps(directory / "checkpoints")[-1] == done
    group = [start(*words, *extra) for extra in host_flags(processes)]
    assert [run.finish() for run in group] == [0] * processes, group[0].said()
    assert f"resuming at step {done}" in group[0].said()
    assert group[0].steps_done() == 24 and (directory / "report.html").exists()
