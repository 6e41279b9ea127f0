"""`python -m lostjax.verify`: a line for each file, and an exit code for cron."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lostjax.data import save_tokenizer
from lostjax.data.tokenizers.byte import ByteTokenizer
from lostjax.disk.chain import chain_lines, read_chain
from lostjax.disk.lock import hold_lock
from lostjax.disk.manifest import MANIFEST
from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.keep.commands import record_command
from lostjax.train.keep.directory import hold_run_dir
from lostjax.train.keep.identity import check_same_data
from lostjax.train.keep.step_directories import (
    commit,
    list_steps,
    saving_dir,
    set_aside,
)
from lostjax.train.log.json_lines import READING, JsonLines
from lostjax.verify import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path):
    """A run with steps 9 and 10, each of 5,000 bytes, and all other files."""
    directory = tmp_path / "run"
    config = TrainConfig(run_dir=str(directory), steps=10)
    with hold_run_dir(directory, config, identity={"train_bytes": 7}, needed=0):
        save_tokenizer(ByteTokenizer(), directory)
        record_command(directory, "python -m lostjax.train", step=0)
        record_command(directory, "python -m lostjax.train --resume=latest", step=9)
    for step in (10, 9):
        (saving_dir(directory / "checkpoints", step) / "model").mkdir(parents=True)
        part = saving_dir(directory / "checkpoints", step) / "model" / "0"
        part.write_bytes(bytes([step]) * 5000)
        commit(directory / "checkpoints", step)
    sink = JsonLines(directory, resume_step=0)
    for step in range(1, 11):
        sink.write(step, {"loss": 1 / step} | ({} if step % 4 else {READING: 1.0}))
        if step % 5 == 0:
            sink.write(step, {"eval_loss": 1.0})
    sink.close()
    readings = [{"step": step, "mean_log_z": 1.0} for step in (4, 8)]
    (directory / "stability.jsonl").write_bytes(chain_lines(readings))
    (directory / "report.html").write_text("<p>all is well")
    return directory


def said_by(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert not said.err
    return code, said.out.splitlines()


WHOLE = """\
config.json        whole
data.json          whole
tokenizer.json     whole
commands.jsonl     whole  2 lines
metrics.jsonl      whole  10 lines
evaluations.jsonl  whole  2 lines
stability.jsonl    whole  2 lines
step 9             whole  5.00 kB
step 10            whole  5.00 kB"""


def test_what_is_whole_is_a_line_each_and_exit_code_0(run, capsys):
    before = sorted(run.rglob("*"))
    assert said_by(capsys, run) == (0, WHOLE.splitlines())
    assert sorted(run.rglob("*")) == before


def bad_rows(capsys, run):
    """Verify, and give the rows that are not whole, with one space between words."""
    code, lines = said_by(capsys, run)
    rows = [" ".join(line.split()) for line in lines]
    bad = [row for row in rows if row.split()[-1] != "whole" and " whole " not in row]
    assert code == bool(bad)
    return bad


def test_damage_of_any_kind_is_exit_code_1(run, capsys):
    (run / "checkpoints" / "9" / "model" / "0").write_bytes(b"short")
    assert bad_rows(capsys, run) == ["step 9 DAMAGED model/0: has 5 of 5000 bytes"]
    set_aside(run / "checkpoints", 9)
    (row,) = bad_rows(capsys, run)
    assert row.startswith("9.damaged SET ASIDE ")


FILES = {
    # file: (state when it is missing, state when its end is)
    "config.json": (None, "DAMAGED"),
    "data.json": ("MISSING", "DAMAGED"),
    "tokenizer.json": ("MISSING", "DAMAGED"),
    "commands.jsonl": ("MISSING", "DAMAGED"),
    "metrics.jsonl": ("INCOMPLETE", "INCOMPLETE"),
    "evaluations.jsonl": ("INCOMPLETE", "INCOMPLETE"),
    "stability.jsonl": ("INCOMPLETE", "INCOMPLETE"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_byte_of_every_file_is_named(run, capsys, name):
    path = run / name
    whole = path.read_bytes()
    for number in range(0, 8 * len(whole), 8 * len(whole) // 24 + 1):
        flipped = bytearray(whole)
        flipped[number // 8] ^= 1 << number % 8
        path.write_bytes(flipped)
        (row,) = bad_rows(capsys, run)
        assert row.startswith((f"{name} DAMAGED", f"{name} INCOMPLETE")), number
    missing, short = FILES[name]
    lines = whole.splitlines(keepends=True)
    for cut in (b"", bytes(len(whole)), whole[: len(whole) // 2], b"".join(lines[:-1])):
        path.write_bytes(cut)
        rows = bad_rows(capsys, run)
        assert any(row.startswith(f"{name} {short}") for row in rows), (cut, rows)
    path.unlink()
    if missing:
        rows = bad_rows(capsys, run)
        assert any(row.startswith(f"{name} {missing}") for row in rows), rows
    path.write_bytes(whole)
    assert not bad_rows(capsys, run)


def test_what_has_no_hash_is_named_and_can_be_adopted(run, capsys):
    (run / "checkpoints" / "10" / MANIFEST).unlink()
    for name in ("config.json", "data.json"):
        values = json.loads((run / name).read_text())
        del values["hash"]
        values |= {"version": 2} if "version" in values else {}
        (run / name).write_text(json.dumps(values))
    (run / "tokenizer.json.hash").unlink()
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [line.values for line in read_chain((run / name).read_bytes())]
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    states = [row.partition(" ")[::2] for row in bad_rows(capsys, run)]
    assert [name for name, state in states if state.startswith("NO HASH ")] == [
        "config.json", "data.json", "tokenizer.json", "metrics.jsonl",
        "evaluations.jsonl",
    ]  # fmt: skip
    assert states[-1][1].startswith("10 NO MANIFEST ")
    assert said_by(capsys, run, "--adopt") == (0, WHOLE.splitlines())
    assert list_steps(run / "checkpoints") == [9, 10]


def test_what_does_not_fit_its_hash_is_not_adopted(run, capsys):
    names = ("config.json", "data.json", "tokenizer.json", "commands.jsonl",
             "metrics.jsonl")  # fmt: skip
    for name in names:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content.replace(b"7", b"8"))
    before = {name: (run / name).read_bytes() for name in names}
    code, lines = said_by(capsys, run, "--adopt")
    assert code == 1 and [line.split()[1] for line in lines[:5]] == ["DAMAGED"] * 5
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_lost_identity_can_be_adopted_and_is_then_that_of_the_next_start(run, capsys):
    config = TrainConfig(run_dir=str(run), steps=10)
    (run / "data.json").unlink()
    with pytest.raises(ConfigError, match="--adopt"):
        check_same_data(run, {"train_bytes": 8})
    assert said_by(capsys, run, "--adopt")[0] == 0
    check_same_data(run, {"train_bytes": 8})
    with hold_run_dir(run, config, identity={"train_bytes": 8}, needed=0):
        pass
    assert "vouches from now on" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="other data"):
        check_same_data(run, {"train_bytes": 7})


def test_a_run_that_is_written_is_verified_and_not_adopted(run, capsys):
    with hold_lock(run):
        assert said_by(capsys, run)[0] == 0
        assert main([str(run), "--adopt"]) == 2
    said = capsys.readouterr().err
    assert "is writing this run" in said and said.count("\n") == 1


def test_lines_that_were_lost_long_ago_and_named_then_are_whole(run, capsys):
    path = run / "metrics.jsonl"
    rows = [line.values for line in read_chain(path.read_bytes())]
    path.write_bytes(chain_lines(row for row in rows if row["step"] not in (3, 4)))
    assert not bad_rows(capsys, run)


def test_a_run_without_checkpoints_is_told_from_no_run(run, capsys):
    for path in (run / "checkpoints").iterdir():
        path.rename(run / f"moved-{path.name}")
    code, lines = said_by(capsys, run)
    assert code == 0 and lines[-1] == f"{run}: no checkpoint yet"
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
@pytest.mark.parametrize("shut", ["checkpoints", "checkpoints/10", "data.json"])
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
