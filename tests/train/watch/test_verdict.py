"""Verdicts: what follows from the numbers of one step, and from nothing else."""

import pytest

from lostjax.train.config.schema import GuardConfig
from lostjax.train.watch.verdict import Seen, Spike, Streak, Verdict, judge

FINE = Seen(7, 2.0, 1.0, 0, False, float("inf"))


def test_a_step_without_trouble_goes_on():
    assert judge(FINE, GuardConfig()) == judge(None, GuardConfig()) == Verdict()
    assert not Verdict().ends


@pytest.mark.parametrize("patience, length, ends", [(3, 2, False), (3, 3, True)])
def test_a_streak_ends_the_run_at_its_patience(patience, length, ends):
    seen = FINE._replace(skipped_in_a_row=length)
    verdict = judge(seen, GuardConfig(patience=patience))
    assert verdict.ends is ends
    assert verdict.stop == (Streak(7, length) if ends else None)


def test_without_patience_a_streak_never_ends_the_run():
    seen = FINE._replace(skipped_in_a_row=1000)
    assert not judge(seen, GuardConfig(patience=0)).ends


@pytest.mark.parametrize("spike", ["skip", "rollback"])
def test_a_spike_is_returned_from_only_if_asked_for(spike):
    seen = FINE._replace(skipped_in_a_row=1, spiked=True, loss=9.0, spike_limit=3.0)
    verdict = judge(seen, GuardConfig(spike=spike))
    expected = Spike(7, 9.0, 3.0) if spike == "rollback" else None
    assert verdict.roll_back == expected and verdict.stop is None
    assert bool(verdict.note) is (expected is None)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_streak_is_announced_once(length):
    note = judge(FINE._replace(skipped_in_a_row=length), GuardConfig()).note
    assert note == (
        "step 7: loss 2, gradient norm 1: the update is skipped" if length == 1 else ""
    )


def test_a_streak_knows_its_first_step():
    assert Streak(last_step=9, length=3).first_step == 7
