"""A run's directory that is deleted, renamed or replaced while the run writes it."""

import os
import shutil

import pytest

from lostjax.train import session
from lostjax.train.keep.checkpoints import Checkpoints
from lostjax.train.log.json_lines import read_evaluations

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


def test_files_that_somebody_changes_meanwhile_are_restored_or_named(
    flags, train_here, tmp_path, disturb
):
    run = tmp_path / "run"
    kept = {}

    def change():
        for name in ("config.json", "data.json", "commands.jsonl"):
            kept[name] = (run / name).read_bytes()
        (run / "config.json").unlink()
        (run / "data.json").write_text("{}")
        os.truncate(run / "evaluations.jsonl", 0)
        os.truncate(run / "commands.jsonl", 0)
        metrics = bytearray((run / "metrics.jsonl").read_bytes())
        metrics[3] ^= 1
        with (run / "metrics.jsonl").open("r+b") as file:  # in its place
            file.write(metrics)

    disturb(change)
    code, said = train_here(f"--run-dir={run}", "--mesh=data:1", *flags)
    assert code == 1, "a file is damaged at the end"
    assert f"{run}/config.json: was deleted: written again" in said
    for name in ("data.json", "commands.jsonl"):
        assert f"{run}/{name}: was changed while the run was" in said
    assert f"{run}/evaluations.jsonl: was changed while the run was" in said
    assert f"{run}/metrics.jsonl: line 1 is damaged" in said
    assert "the report counts the tokens of 23 of 24 steps" in said
    assert {name: (run / name).read_bytes() for name in kept} == kept
    evaluations = read_evaluations(run)
    assert evaluations and {line["step"] % 3 for line in evaluations} == {0}


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
