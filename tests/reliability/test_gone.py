"""A run's directory that is deleted, renamed or replaced while the run writes it."""

import shutil

import pytest

from lostjax.train import session
from lostjax.train.keep.checkpoints import Checkpoints

SAVED_AT = 12


@pytest.fixture
def disturb(monkeypatch):
    """Do something right before a save that is not the first."""

    def before(damage):
        save = Checkpoints.save

        def disturbed(self, state, *, step, also=None):
            self.wait()
            if step == SAVED_AT:
                damage()
            save(self, state, step=step, also=also)

        monkeypatch.setattr(Checkpoints, "save", disturbed)

    return before


@pytest.mark.parametrize(
    "way", ["renamed", pytest.param("deleted", marks=pytest.mark.torture)]
)
def test_a_directory_that_goes_away_is_made_again_and_nothing_is_lost(
    uninterrupted, outcome, flags, train_here, tmp_path, disturb, way
):
    run, moved = tmp_path / "run", tmp_path / "moved"
    disturb(lambda: shutil.rmtree(run) if way == "deleted" else run.rename(moved))
    code, said = train_here(f"--run-dir={run}", "--mesh=data:1", *flags)
    assert code == 0, said
    assert said.count("was deleted or renamed while the run was writing it") == 1
    assert outcome(run) == outcome(uninterrupted)
    assert "starting; " in (run / "log.txt").read_text()
    if way == "renamed":
        left = [path.name for path in (moved / "checkpoints").iterdir()]
        assert left == ["6"] and not (moved / "report.html").exists()


def test_a_directory_that_is_deleted_while_the_run_compiles_is_made_again(
    uninterrupted, outcome, flags, train_here, tmp_path, monkeypatch
):
    run, compile_steps = tmp_path / "run", session.compile_steps

    def compile_and_delete(job, state):
        shutil.rmtree(run)
        return compile_steps(job, state)

    monkeypatch.setattr(session, "compile_steps", compile_and_delete)
    code, said = train_here(f"--run-dir={run}", "--mesh=data:1", *flags)
    assert code == 0 and "was deleted or renamed while the run was" in said
    assert outcome(run) == outcome(uninterrupted)


def test_a_directory_that_another_replaces_is_left_alone_and_the_exit_code_is_1(
    flags, train_here, tmp_path, disturb
):
    run, moved = tmp_path / "run", tmp_path / "moved"

    def replace():
        run.rename(moved)
        run.mkdir()
        (run / "mine").touch()

    disturb(replace)
    code, said = train_here(f"--run-dir={run}", "--mesh=data:1", *flags)
    assert code == 1
    for step in (12, 18, 24):
        assert f"checkpoint {step} could not be saved ({run} is another dir" in said
    assert "no report is written" in said
    assert [path.name for path in run.iterdir()] == ["mine"]
    assert len((moved / "metrics.jsonl").read_text().splitlines()) == 24


def test_a_last_checkpoint_that_is_deleted_at_once_is_exit_code_1(
    flags, train_here, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    wait = Checkpoints.wait

    def wait_and_delete(self):
        wait(self)
        shutil.rmtree(run / "checkpoints" / "24", ignore_errors=True)

    monkeypatch.setattr(Checkpoints, "wait", wait_and_delete)
    code, said = train_here(f"--run-dir={run}", "--mesh=data:1", *flags)
    assert code == 1 and "checkpoint 24 was saved, and is gone" in said
