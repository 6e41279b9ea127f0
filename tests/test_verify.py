"""`python -m lostjax.verify`: one line a checkpoint, and an exit code for cron."""

import subprocess
import sys
from pathlib import Path

import pytest

from lostjax.disk.manifest import MANIFEST
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import save_config
from lostjax.train.keep.step_directories import (
    commit,
    list_steps,
    saving_dir,
    set_aside,
)
from lostjax.verify import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path):
    """A run with steps 9 and 10, each of 5,000 bytes."""
    save_config(tmp_path / "config.json", TrainConfig())
    for step in (10, 9):
        (saving_dir(tmp_path / "checkpoints", step) / "model").mkdir(parents=True)
        part = saving_dir(tmp_path / "checkpoints", step) / "model" / "0"
        part.write_bytes(bytes([step]) * 5000)
        commit(tmp_path / "checkpoints", step)
    return tmp_path


def said_by(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert not said.err
    return code, said.out.splitlines()


def test_whole_checkpoints_are_a_line_each_and_exit_code_0(run, capsys):
    before = sorted(run.rglob("*"))
    lines = ["step 9   whole  5.00 kB", "step 10  whole  5.00 kB"]
    assert said_by(capsys, run) == (0, lines)
    assert sorted(run.rglob("*")) == before


def test_damage_of_any_kind_is_exit_code_1(run, capsys):
    (run / "checkpoints" / "9" / "model" / "0").write_bytes(b"short")
    code, lines = said_by(capsys, run)
    assert code == 1 and lines[0] == "step 9   DAMAGED  model/0: has 5 of 5000 bytes"
    assert lines[1] == "step 10  whole    5.00 kB"
    set_aside(run / "checkpoints", 9)
    code, lines = said_by(capsys, run)
    assert code == 1 and "9.damaged  SET ASIDE  " in lines[1]


def test_what_has_no_manifest_is_named_and_can_be_adopted(run, capsys):
    (run / "checkpoints" / "10" / MANIFEST).unlink()
    code, lines = said_by(capsys, run)
    assert code == 1 and "step 10  NO MANIFEST  " in lines[1]
    assert said_by(capsys, run, "--adopt")[0] == 0
    assert list_steps(run / "checkpoints") == [9, 10]


def test_a_run_without_checkpoints_is_told_from_no_run(run, capsys):
    for path in (run / "checkpoints").iterdir():
        path.rename(run / f"moved-{path.name}")
    assert said_by(capsys, run) == (0, [f"{run}: no checkpoint yet"])
    assert main([str(run / "checkpoints")]) == 2
    assert main([str(run), "--adpt"]) == 2
    said = capsys.readouterr().err
    assert "not a run's directory" in said and "did you mean --adopt?" in said
    assert said.count("\n") == 2


OBEY_PERMISSIONS = """
import ctypes, os, sys
if os.geteuid() == 0:  # root reads everything: take that right from it
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "lostjax.verify", *sys.argv[1:]])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities")
@pytest.mark.parametrize("shut", ["checkpoints", "checkpoints/10"])
def test_what_may_not_be_read_is_one_line(run, shut):
    (run / shut).chmod(0o000)
    command = [sys.executable, "-c", OBEY_PERMISSIONS, str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (run / shut).chmod(0o700)
    assert done.returncode == 2 and not done.stdout, done.stderr
    assert f"{run / shut}" in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.endswith("cannot be read: Permission denied\n")


def test_the_command_starts_without_jax(run):
    code = (
        "import sys; from lostjax.verify import main; "
        f"assert main([{str(run)!r}]) == 0; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
