"""A run that goes back from loss spikes: by the command line, killed and stopped.

Steps are 24, a checkpoint is due every 6. The spikes come before and at a step whose
checkpoint is due, right after one, on going back, and in the last step:

    batch (from 0)      9   10   16   23   35
    at step (from 1)   10    7   12   13   24
    back to step        6    6    6   12   18
    passed over then    4    5   11   12   18
"""

import json
import os
import runpy
import shutil
import signal
from pathlib import Path

import pytest

from lostjax.train import loop, programs
from lostjax.train.__main__ import main
from lostjax.train.diagnosis import STOPPED_FILE
from lostjax.train.metrics import read_metrics
from lostjax.train.recorder import Recorder
from lostjax.train.step_dirs import list_steps

SCRIPT = Path(__file__).with_name("spiking.py")
SPIKES = (9, 10, 16, 23, 35)
PASSED_OVER = [0] * 6 + [11] * 6 + [12] * 6 + [18] * 6
GUARD = ["--guard.spike=rollback", "--guard.window=4", "--guard.sigma=40"]


@pytest.fixture(scope="module")
def words(flags):
    return [*flags, *GUARD, "--mesh=data:1", "--stability.every=4"]


@pytest.fixture
def spike(monkeypatch):
    """Let batches spike: spike(numbers)."""
    make_spiking = runpy.run_path(str(SCRIPT))["make_spiking"]
    real = programs.make_gradient

    def begin(batches):
        made = make_spiking(real, batches)
        monkeypatch.setattr(programs, "make_gradient", made)

    return begin


class Moments:
    """Do something before a batch is placed, or after the run went back."""

    def __init__(self, monkeypatch):
        self.at_batch, self.at_rollback = {}, {}
        self.placed = []
        place, go_back = loop.place_batch, Recorder.go_back
        self._rollbacks = 0

        def placing(*arguments, **named):
            self.at_batch.pop(len(self.placed), lambda: None)()
            batch = place(*arguments, **named)
            self.placed.append(batch)
            return batch

        def going(recorder, step):
            go_back(recorder, step)
            self._rollbacks += 1
            self.at_rollback.pop(self._rollbacks, lambda: None)()

        monkeypatch.setattr(loop, "place_batch", placing)
        monkeypatch.setattr(Recorder, "go_back", going)


@pytest.fixture
def moments(monkeypatch):
    return Moments(monkeypatch)


def copy_as_killed(directory, to):
    """Copy what is on the disk now: all that a process that is killed leaves."""
    try:
        shutil.copytree(directory, to)
    except shutil.Error:  # a save was renamed meanwhile
        shutil.rmtree(to)
        copy_as_killed(directory, to)


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_goes_back_from_its_spikes_and_killed_or_not_ends_the_same(
    words, spike, moments, outcome, tmp_path, capsys
):
    spike(SPIKES)
    whole = tmp_path / "whole"
    for number in (2, 5):  # right after going back
        moments.at_rollback[number] = lambda number=number: copy_as_killed(
            whole, tmp_path / f"killed-{number}"
        )
    # Steps 7 to 9 after the third spike were done, and the lines before it are gone.
    moments.at_batch[25] = lambda: copy_as_killed(whole, tmp_path / "killed-3")
    assert main([*words, f"--run-dir={whole}"]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "is a spike" in line]
    assert [line.partition(" is a spike, above ")[0][:17] for line in lines] == [
        f"step {step}: loss 100"[:17] for step in (10, 7, 12, 13, 24)
    ]
    assert lines[0].endswith(": back to step 6; 4 batches passed over")
    assert lines[1].endswith(": back to step 6; 1 batch passed over")
    assert "batches passed over" in said.splitlines()[-3] or "18" in said
    metrics = read_metrics(whole)
    assert [line["step"] for line in metrics] == list(range(1, 25))
    assert [line["passed_over"] for line in metrics] == PASSED_OVER
    assert all(line["loss"] < 100 and not line["skipped"] for line in metrics)
    assert "batches passed over" in (whole / "report.html").read_text()
    readings = (whole / "stability.jsonl").read_text()
    for number in (2, 3, 5):
        killed = tmp_path / f"killed-{number}"
        assert main([*words, f"--run-dir={killed}"]) == 0
        assert outcome(killed) == outcome(whole)
        assert (killed / "stability.jsonl").read_text() == readings
