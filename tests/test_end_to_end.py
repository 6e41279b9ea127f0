"""The real command line, as a person runs it: train, stop, resume, generate, err."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lostjax.disk.lock import hold_lock
from lostjax.disk.manifest import write_manifest
from lostjax.generate import main as generate
from lostjax.train.__main__ import main
from lostjax.train.config.fields import replace_in
from lostjax.train.config.stored import load_config, save_config
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.log.json_lines import CLOCK_FIELDS, read_metrics
from lostjax.verify import main as verify

# What a newer jax or Python may break; bad input is refused by the same lines.
newest = pytest.mark.newest
ROOT = Path(__file__).parents[1]


def start(*words):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, timeout=600):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture
def say(capsys):
    """Call a program's main in this process; gives what `finish` gives."""

    def run(main, *words):
        capsys.readouterr()
        code = main(list(words))
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def flags(text_file, cache_dir):
    return [
        "--preset=smoke",
        f"--data.source={text_file}",
        f"--data.cache-dir={cache_dir}",
        "--data.seq-len=32",
        "--checkpoint-every=10",
        # Weights over the global batch: every process must have its own rows' ones.
        "--objective.reweight=lin_upper",
        "--objective.reweight.temperature=0.3",
    ]


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    """A whole run on eight devices."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    words = ["lostjax.train", "--mesh=data:8", f"--run-dir={directory}", *flags]
    code, out, err = finish(start(*words))
    assert code == 0, err
    return directory, out


def losses(directory):
    return [line["loss"] for line in read_metrics(directory)]


def without_clock(directory):
    return [
        {name: value for name, value in line.items() if name not in CLOCK_FIELDS}
        for line in read_metrics(directory)
    ]


@newest
def test_a_run_leaves_what_it_promises(run):
    directory, out = run
    lines = read_metrics(directory)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < lines[0]["loss"] - 1.0
    assert load_config(directory / "config.json").preset == "smoke"
    page = (directory / "report.html").read_text()
    assert "bits per byte" in page and "<script src" not in page
    evaluation = json.loads((directory / "evaluations.jsonl").read_text())
    assert evaluation["step"] == 20 and evaluation["eval_bits_per_byte"] > 0
    assert list((directory / "tensorboard").iterdir())
    assert "held-out" in out and "report.html" in out
    assert "training tokens, 8 x cpu\n" in out and "\nsample\nFellow citizens," in out
    with open_checkpoints(directory / "checkpoints") as checkpoints:
        assert checkpoints.all_steps() == [10, 20]


@newest
@pytest.mark.usefixtures("plain_report", "compile_once")
def test_a_stopped_and_resumed_run_is_the_same_run(run, flags, say, tmp_path):
    whole, _ = run
    directory = tmp_path / "stopped"
    words = ["lostjax.train", "--mesh=data:8", f"--run-dir={directory}", *flags]
    process = start(*words)
    wait_for_step(directory, 3)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143, err
    done = len(losses(directory))
    assert 3 <= done < 20
    code, out, err = say(main, f"--resume={directory}")
    assert code == 0, err
    assert f"resuming at step {done}" in out
    page = (directory / "report.html").read_text()
    assert "lostjax.train --mesh=data:8" in page, "the command that started it"
    assert f"--resume={directory}  # from step {done}" in page
    elapsed = [line["elapsed"] for line in read_metrics(directory)]
    assert elapsed == sorted(elapsed), "the clock goes on over processes"
    assert without_clock(directory) == without_clock(whole)
    for name in ("model", "progress"):
        assert stored_bits(directory, name) == stored_bits(whole, name)


@pytest.mark.slow  # tests/reliability/test_killed.py kills a run four times
def test_a_killed_run_goes_on_from_its_checkpoint(run, flags, say, tmp_path):
    whole, _ = run
    directory = tmp_path / "killed"
    words = ["lostjax.train", "--mesh=data:8", f"--run-dir={directory}", *flags]
    process = start(*words)
    wait_for_step(directory, 12)
    process.kill()
    finish(process)
    code, _, err = say(main, *words[1:])
    assert code == 0, err
    assert without_clock(directory) == without_clock(whole)
    assert stored_bits(directory, "model") == stored_bits(whole, "model")


@pytest.mark.usefixtures("plain_report", "compile_once")
def test_a_run_goes_on_from_before_a_damaged_checkpoint(run, say, tmp_path):
    whole, _ = run
    directory = shutil.copytree(whole, tmp_path / "damaged")
    parts = directory.glob("checkpoints/20/model/ocdbt.process_0/d/*")
    flip_bit(max(parts, key=lambda part: part.stat().st_size))
    assert verify([str(directory)]) == 1
    code, out, err = say(main, f"--resume={directory}")
    assert code == 0, err
    assert "checkpoint 20 is damaged (model/" in err and "resuming at step 10" in out
    assert without_clock(directory) == without_clock(whole)
    assert stored_bits(directory, "model") == stored_bits(whole, "model")
    assert stored_bits(directory, "progress") == stored_bits(whole, "progress")
    names = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert names == ["10", "20", "20.damaged"]


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.usefixtures("plain_report", "compile_once")
def test_a_run_goes_on_past_damage_of_its_other_files(run, say, tmp_path):
    whole, _ = run
    directory = shutil.copytree(whole, tmp_path / "damaged")
    shutil.rmtree(directory / "checkpoints" / "20")
    for name in ("report.html", "tokenizer.json.hash"):
        (directory / name).unlink()
    metrics = directory / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines[:3], b"\x00" + lines[3][1:], *lines[4:]]))
    (directory / "data.json").write_bytes(
        (directory / "data.json").read_bytes().replace(b"train", b"TRAIN")
    )
    code, out, err = say(main, f"--resume={directory}")
    assert code == 0 and "resuming at step 10" in out
    said = [line for line in err.splitlines() if ".jsonl" in line or ".json:" in line]
    assert len(said) == 2 and "data.json: is damaged" in said[0], err
    assert "metrics.jsonl: line 4 is damaged" in said[1]
    rest = [line for line in without_clock(whole) if line["step"] != 4]
    assert without_clock(directory) == rest
    for name in ("model", "progress"):
        assert stored_bits(directory, name) == stored_bits(whole, name)
    assert verify([str(directory)]) == 1  # what was set aside is still there
    for path in directory.glob("*.damaged"):
        path.unlink()
    assert verify([str(directory)]) == 0


def test_an_edited_learning_rate_is_refused_and_nothing_is_touched(run, tmp_path, say):
    directory = shutil.copytree(run[0], tmp_path / "edited")
    shutil.rmtree(directory / "checkpoints" / "20")
    path = directory / "config.json"
    path.write_bytes(
        path.read_bytes().replace(b'"learning_rate": 0', b'"learning_rate": 1')
    )
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    for program, words in (
        (main, [f"--resume={directory}"]),
        (main, [f"--run-dir={directory}", f"--config={run[0] / 'config.json'}"]),
        (generate, [str(directory)]),
    ):
        code, _, err = say(program, *words)
        assert code == 2 and "config.json: is damaged or was edited" in err
        assert err.count("\n") == 1 and "--keep=5" in err
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_finished_run_names_damage_and_one_of_an_earlier_version_what_has_no_hash(
    run, tmp_path, say
):
    directory = shutil.copytree(run[0], tmp_path / "finished")
    lines = (directory / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_bytes(b"".join(lines[:15]))
    (directory / "evaluations.jsonl").unlink()
    (directory / "tokenizer.json").write_bytes(b"{}")
    code, out, err = say(main, f"--resume={directory}")
    assert code == 0 and "finished, all 20 steps are done" in out
    for said in (
        "metrics.jsonl: its lines after step 15, up to step 20, are missing",
        "evaluations.jsonl: its lines after step 0, up to step 20, are missing",
        "tokenizer.json: is damaged: kept as",
    ):
        assert f"{directory}/{said}" in err
    old = shutil.copytree(run[0], tmp_path / "old")
    for name in ("config.json", "data.json"):
        values = json.loads((old / name).read_bytes()) | {"version": 2}
        del values["hash"]
        (old / name).write_text(json.dumps(values))
    (old / "tokenizer.json.hash").unlink()
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = map(json.loads, (old / name).read_bytes().splitlines())
        rows = [
            {k: row[k] for k in row if k not in ("hash", "evaluated")} for row in rows
        ]
        (old / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = say(main, f"--resume={old}")
    assert code == 0 and "finished" in out
    names = "config.json, data.json, tokenizer.json, metrics.jsonl, evaluations.jsonl"
    assert f"no hash vouches for {names}; python -m lostjax.verify" in err


def test_a_run_without_a_whole_checkpoint_is_refused(run, tmp_path, capsys):
    directory = shutil.copytree(run[0], tmp_path / "lost")
    for path in directory.glob("checkpoints/*/model/_METADATA"):
        flip_bit(path)
    before = sorted(directory.rglob("*"))
    assert main([f"--resume={directory}"]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint is whole (step 20: model/_METADATA: " in said
    assert "step 10: model/_METADATA: " in said and said.count("\n") == 1
    assert sorted(directory.rglob("*")) == before


def test_two_runs_in_one_directory_are_refused(run, flags, capsys):
    directory, _ = run
    before = sorted(directory.rglob("*"))
    with hold_lock(directory):
        assert main([f"--resume={directory}"]) == 2
    said = capsys.readouterr().err
    assert f"process {os.getpid()} on {socket.gethostname()} is writing" in said
    assert said.count("\n") == 1 and sorted(directory.rglob("*")) == before


def test_a_text_that_changed_is_refused_and_harmless_changes_are_taken(
    run, flags, text_file, tmp_path, capsys
):
    directory = shutil.copytree(run[0], tmp_path / "changed")
    words = [word for word in flags if "--data.source" not in word]
    words.append(f"--run-dir={directory}")
    harmless = ["--keep=5", "--eval-every=3", "--checkpoint-every=7", "--mesh=data:4"]
    words = [word for word in words if not word.startswith("--checkpoint-every")]
    assert main([*words, f"--data.source={text_file}", *harmless]) == 0
    assert "finished, all 20 steps are done" in capsys.readouterr().out
    other = tmp_path / text_file.name
    other.write_text(text_file.read_text() + "More.")
    config = load_config(directory / "config.json")
    config = replace_in(config, "data", source=str(other))
    save_config(directory / "config.json", config)
    assert main([*words, f"--data.source={other}"]) == 2
    said = capsys.readouterr().err
    assert "a run on other data (heldout_bytes: " in said and said.count("\n") == 1


def wait_for_step(directory, step):
    deadline = time.monotonic() + 600
    while not directory.exists() or len(read_metrics(directory)) < step:
        assert time.monotonic() < deadline, "the run does not step"
        time.sleep(0.02)


def stored_bits(directory, item):
    """Read the final checkpoint's arrays, by path, as bytes."""
    path = directory / "checkpoints" / "20" / item
    tree = ocp.StandardCheckpointer().restore(path.absolute())
    return {
        jax.tree_util.keystr(key): np.asarray(leaf).tobytes()
        for key, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_a_finished_run_says_so_and_grows_only_when_it_is_asked_for(run, flags, capsys):
    directory, _ = run
    assert main([f"--resume={directory}"]) == 0
    assert "finished, all 20 steps are done" in capsys.readouterr().out
    assert main([f"--run-dir={directory}", "--steps=30", *flags]) == 2
    said = capsys.readouterr().err
    assert "another schedule (--steps: 20 there, 30 now)" in said
    assert f"use --resume={directory} with these flags" in said


@newest
def test_generate_continues_a_prompt(run, say):
    directory, _ = run
    words = [str(directory), "--prompt", "You may", "--tokens=12"]
    code, out, err = finish(start("lostjax.generate", *words))
    assert code == 0, err
    assert out.startswith("You may") and len(out) > len("You may\n")
    again = say(generate, *words, "--step=20")[1]
    assert again == out, "the newest checkpoint is step 20, and the seed is fixed"
    code, _, err = say(generate, *words, "--step=15")
    assert code == 2 and "has checkpoints of steps 10, 20" in err
    assert err.count("\n") == 1, err


def test_a_damaged_checkpoint_is_named(run, tmp_path, capsys):
    directory = tmp_path / "damaged"
    shutil.copytree(run[0], directory)
    for path in (directory / "checkpoints").glob("20/*/_METADATA"):
        path.write_bytes(path.read_bytes()[:100])
    assert generate([str(directory)]) == 2
    said = capsys.readouterr().err
    assert f"{directory}/checkpoints/20: is damaged: model/_METADATA: has 100" in said
    assert generate([str(directory), "--step=10", "--tokens=3"]) == 0


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 100_000,
        "3",
        "",
        '{"tree_metadata": []}',
        '{"tree_metadata": {"x": 3}}',
    ],
)
@pytest.mark.parametrize("name", ["_METADATA", "array_metadatas/process_0"])
def test_crafted_metadata_with_a_hash_that_fits_is_one_line(
    run, name, content, tmp_path, capsys
):
    directory = shutil.copytree(run[0], tmp_path / "crafted")
    (directory / "checkpoints" / "20" / "model" / name).write_text(content)
    write_manifest(directory / "checkpoints" / "20")
    if "tree" in content and name != "_METADATA":
        pytest.skip("reads as metadata of no array")
    assert generate([str(directory), "--tokens=1"]) == 2
    said = capsys.readouterr().err
    assert f"{directory}/checkpoints/20" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "RUN is missing, such as latest; see --help"),
        (["{run}", "Dear Sir"], "did you mean --prompt='Dear Sir'?"),
        (["/no/run"], "/no/run: not a run's directory"),
        (["{run}", "--tokens=0"], "--tokens=0: must be at least 1"),
        (["{run}", "--top-k=999"], "--top-k=999: must be 1 to vocab_size=257"),
        (["{run}", "--tokens=1000000000"], "--tokens=1000000000: must be 1 to 131072"),
        (["{run}", "--top-p=0"], "--top-p=0.0"),
        (["{run}", "--temperature=-1"], "--temperature=-1"),
        (["{run}", "--seed=-1"], "--seed=-1: must lie in [0, 2^32)"),
        (["{run}", "--promt=x"], "did you mean --prompt?"),
        (["{empty}"], "has no checkpoint yet"),
        (["{old}"], "(steps 10) have no manifest"),
    ],
)
def test_bad_input_to_generate_is_one_line(run, words, message, tmp_path, capsys):
    empty = tmp_path / "empty"
    shutil.copytree(run[0], empty, ignore=shutil.ignore_patterns("checkpoints"))
    old = shutil.copytree(empty, tmp_path / "old")
    (empty / "checkpoints").mkdir()
    (old / "checkpoints" / "10").mkdir(parents=True)
    places = {"run": run[0], "empty": empty, "old": old}
    assert generate([word.format(**places) for word in words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_two_processes_are_one_run(run, flags, tmp_path):
    whole, _ = run
    directory = tmp_path / "two"
    port = free_port()
    words = [
        "lostjax.train", "--mesh=data:8", f"--run-dir={directory}", *flags,
        f"--hosts.coordinator=127.0.0.1:{port}", "--hosts.processes=2",
    ]  # fmt: skip
    pair = [start(*words, f"--hosts.index={index}") for index in range(2)]
    for process in pair:
        code, _, err = finish(process)
        assert code == 0, err
    np.testing.assert_allclose(losses(directory), losses(whole), rtol=1e-5)
    assert (directory / "report.html").exists()


@pytest.mark.torture
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_go_on_with_a_run_of_one(run, tmp_path, processes):
    whole, _ = run
    directory = shutil.copytree(whole, tmp_path / "several")
    shutil.rmtree(directory / "checkpoints" / "20")
    words = [
        "lostjax.train", f"--resume={directory}", f"--hosts.processes={processes}",
        f"--hosts.coordinator=127.0.0.1:{free_port()}",
    ]  # fmt: skip
    group = [start(*words, f"--hosts.index={index}") for index in range(processes)]
    for process in group:
        code, _, err = finish(process, timeout=600)
        assert code == 0, err
    np.testing.assert_allclose(losses(directory), losses(whole), rtol=1e-5)
    assert verify([str(directory)]) == 0


@pytest.mark.torture
def test_several_processes_refuse_together(run, tmp_path):
    directory = shutil.copytree(run[0], tmp_path / "locked")
    shutil.rmtree(directory / "checkpoints" / "20")
    words = [
        "lostjax.train", f"--resume={directory}", "--hosts.processes=2",
        f"--hosts.coordinator=127.0.0.1:{free_port()}",
    ]  # fmt: skip
    with hold_lock(directory):
        pair = [start(*words, f"--hosts.index={index}") for index in range(2)]
        done = [finish(process, timeout=120) for process in pair]
    assert [code for code, _, _ in done] == [2, 2], done
    assert f"process {os.getpid()} on" in done[0][2]
    assert "the first process failed; its own message says why" in done[1][2]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--mesh=dat:8"], "no axis is called 'dat'"),
        (["--mesh=data:64"], "needs 64 devices, but there are 8"),
        (["--batch-size=12", "--mesh=data:8"], "8 or 16 would do"),
        (["--model.rank=33"], "--model.rank=33: must lie in [1, 32]"),
        (["--model.delta=-0.1"], "--model.delta=-0.1"),
        (["--model.channel-groups=3"], "channel"),
        (["--objective.trajectory=saf"], "no row is repeated"),
        (["--objective.trajectory=sam"], "--objective.trajectory"),
        (["--data.source=/no/such.txt"], "/no/such.txt"),
        (["--data.source={empty}"], "empty"),
        (["--data.source={latin}"], "UTF-8"),
        (["--data.source={short}"], "short"),
        (["--data.source={ids}", "--data.tokenizer=bytes"], "vocabulary"),
        (["--data.source=tfds:{tfds}"], "no prepared data set there"),
        (["--data.tokenizer=/no/tokenizer.json"], "/no/tokenizer.json"),
        (["--run-dir={strange}"], "holds files but no run"),
        (["--run-dir={empty}/run"], "empty.txt is a file, not a directory"),
        (["--seed=4294967296"], "--seed=4294967296: must lie in [0, 2^32)"),
        (["--dry-run=1"], "takes no value; write --dry-run or --no-dry-run"),
        (["--model.learn-gamma=yes"], "write --model.learn-gamma or --model.no-"),
        (["--data.cache-dir={empty}"], "the cache cannot be written"),
        (["--nope"], "--nope: no such flag"),
        (["--preset=smok"], "did you mean smoke?"),
        (["--mesh=data:2,data:2"], "axis data is given twice"),
        (["--mesh=data:0"], "the size of data is '0'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    extra, message, flags, tmp_path, capsys
):
    places = {
        name: tmp_path / name
        for name in (
            "empty.txt",
            "latin.txt",
            "short.txt",
            "ids.npy",
            "tfds",
            "strange",
        )
    }
    places["empty.txt"].write_text("")
    places["latin.txt"].write_bytes("déjà vu ".encode("latin-1") * 999)
    places["short.txt"].write_text("too short")
    np.save(places["ids.npy"], np.full(9999, 60000, np.uint16))
    for name in ("tfds", "strange"):
        places[name].mkdir()
        (places[name] / "something").write_text("x")
    named = {path.stem: path for path in places.values()}
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(**named) for word in extra]
    names = {word.partition("=")[0] for word in words}
    kept = [word for word in flags if word.partition("=")[0] not in names]
    if "--run-dir" not in names:
        words.append(f"--run-dir={tmp_path / 'run'}")
    assert main([*kept, *words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1, said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_another_runs_directory_is_left_alone(run, flags, capsys):
    directory, _ = run
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert main([f"--run-dir={directory}", "--model.rank=4", *flags]) == 2
    said = capsys.readouterr().err
    assert "another configuration (--model.rank: 8 there, 4 now)" in said
    assert said.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_disk_without_room_is_one_line_and_leaves_nothing(
    flags, tmp_path, capsys, monkeypatch
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(["--mesh=data:8", f"--run-dir={tmp_path / 'run'}", *flags]) == 2
    said = capsys.readouterr().err
    assert "1.00 kB are free on its disk, but the checkpoints need" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_in_the_cache_is_one_line(
    flags, tmp_path, capsys, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    words = [f"--data.cache-dir={tmp_path}/cache", f"--run-dir={tmp_path}/run"]
    kept = [word for word in flags if "cache-dir" not in word]
    assert main(["--mesh=data:8", *words, *kept]) == 2
    said = capsys.readouterr().err
    assert "the cache cannot be written (No space left on device)" in said
    assert said.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


OBEY_PERMISSIONS = """
import contextlib, ctypes, io, json, os, sys
if os.geteuid() == 0:  # root reads and writes everything: take that right from it
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0
if sys.argv[1] == "first":  # the right is gone once the process is another program
    os.execv(sys.executable, [*sys.orig_argv[:3], "then", *sys.argv[2:]])
from lostjax.train.__main__ import main
said = []
for words in map(json.loads, sys.argv[2:]):
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(words)
    said.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities")
def test_no_permission_is_one_line_and_leaves_nothing(flags, tmp_path):
    messages = {
        "--run-dir={locked}/run": "no permission to write in {locked}",
        "--run-dir={shut}/run": "no permission to read {shut}/run",
        "--resume={shut}": "{shut}: no permission to read it",
        "--data.source={secret}": "{secret}: cannot be read: Permission denied",
        "--data.cache-dir={locked}/cache": "cannot be written (Permission denied)",
    }
    places = {name: tmp_path / name for name in ("locked", "shut", "secret")}
    for name, mode in {"locked": 0o500, "shut": 0o000}.items():
        places[name].mkdir()
        places[name].chmod(mode)
    places["secret"].write_text("x")
    places["secret"].chmod(0o000)
    commands = []
    for extra in messages:
        name = extra.partition("=")[0]
        words = [] if name == "--resume" else [f"--run-dir={tmp_path / 'run'}", *flags]
        kept = [other for other in words if not other.startswith(name + "=")]
        commands.append(json.dumps([extra.format(**places), *kept]))
    done = subprocess.run(
        [sys.executable, "-c", OBEY_PERMISSIONS, "first", *commands],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    for name in ("locked", "shut"):
        places[name].chmod(0o700)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for message, (code, out, err) in zip(messages.values(), said, strict=True):
        assert code == 2 and message.format(**places) in err, err
        assert err.count("\n") == 1 and not out
    assert sorted(tmp_path.rglob("*")) == sorted(places.values())


@newest
def test_dry_run_prints_the_configuration_and_the_budget(flags, tmp_path, capsys):
    assert main([*flags, "--dry-run", f"--run-dir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "model.rank" in said and "FLOPs" in said
    assert not (tmp_path / "run").exists()


@newest
@pytest.mark.usefixtures("plain_report")
@pytest.mark.slow
def test_a_profile_is_written(flags, tmp_path):
    directory = tmp_path / "profiled"
    words = [f"--run-dir={directory}", *flags, "--profile=3:5"]
    assert main([*words, "--mesh=data:1", "--steps=8"]) == 0
    assert list((directory / "profile").rglob("*.xplane.pb"))
