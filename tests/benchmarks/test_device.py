"""The check of an accelerator, as far as a CPU can tell: its dry run, its processes."""

import json
import subprocess
import sys
import time

import jax
import pytest
from device import command, plans, values
from device.forms import FORMS, configure, list_forms, vocabulary
from device.programs import lower_step, one_device
from device.sections import BUDGETS, Check, list_rows
from device.workers import Event, run_rows, stream

from lostjax.train.build import programs as trainer
from lostjax.train.build.run import build_run
from lostjax.train.devices.sharding import place_shapes


def test_the_dry_run_prints_and_writes_every_row(tmp_path, monkeypatch, capsys):
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):  # restored afterwards
        monkeypatch.setenv(name, "cpu" if name == "JAX_PLATFORMS" else "")
    files = {name: tmp_path / f"check.{name}" for name in ("json", "markdown")}
    words = ["--dry", *(f"--{name}={path}" for name, path in files.items())]
    assert command.main("gpu", words, doc="", script="") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert (
        "values 75 s, times 280 s, memory 115 s; at most 7.8 minutes; a dry run"
        in first
    )
    written = json.loads(files["json"].read_text())
    page = files["markdown"].read_text()
    assert "**Kind**: a dry run" in page and "--dry" in page
    for section, rows in written["sections"].items():
        assert list(rows) == list_rows(section, "gpu")
        for name in rows:
            assert any(line.startswith(name) for line in lines), name
            assert f"| {name} |" in page
    times, memory = (written["sections"][name] for name in ("times", "memory"))
    for name in ("LOST", "dense", "LOST, FRUGAL"):
        row = times[f"350m {name}"]
        assert row["status"] == "done" and row["tokens_per_second"] > 0
        # The plan's toy was compiled elsewhere, by whatever jax was there.
        assert abs(row["plan_error"]) < 0.2, (name, row)
        assert ("layer_seconds" in row) == (name in ("LOST", "dense"))
    assert times["350m LOST, our products"]["note"] == "needs a GPU"
    assert memory["1b"]["rows"] == memory["1b"]["plan_rows"] > 1
    assert "do not fit" in memory["1b"]["note"]
    case = written["sections"]["values"]["350m cudnn attention"]
    assert case["status"] == "skipped" and 1e-4 < case["xla_error"] < 0.02


def test_the_check_takes_less_than_eight_minutes():
    assert sum(BUDGETS.values()) < 480


@pytest.mark.parametrize("name", ["LOST"])
def test_what_is_timed_is_the_trainers_step_to_the_letter(name):
    mesh = one_device(jax.devices()[0])
    config = configure("350m", FORMS[name], kind="gpu", toy=True)
    run = build_run(config, mesh=mesh, vocab_size=vocabulary(config))
    theirs = trainer.lower_step(run, place_shapes(run.abstract, mesh))
    assert lower_step(config, mesh).as_text() == theirs.as_text()


def test_a_kernel_is_measured_by_xlas_own_error(monkeypatch):
    """XLA takes the kernel's place: alike; with a thousandth more it is not."""
    mesh = one_device(jax.devices()[0])
    case = values.find_case("350m up", mesh, kind="gpu", toy=True)
    monkeypatch.setattr(values, "count_kernels", lambda program: {"kernel": 1})

    def compare(scale):
        def kernel(*arguments):
            return jax.tree.map(lambda leaf: scale * leaf, case.xla(*arguments))

        compiled = values.compile_case(case._replace(kernel=kernel), mesh, kernel=True)
        return values._compare(compiled, True)

    same, other = compare(1.0), compare(1.02)
    assert same["status"] == "done" and same["ratio"] == pytest.approx(1.0)
    assert other["status"] == "error" and other["ratio"] > values.ALIKE
    assert compare(float("nan"))["status"] == "error"


WORKER = """
import json, os, sys, time
for name in sys.argv[1].split(";"):
    print(json.dumps({"begin": name, "limit": 0.5}), flush=True)
    if name == "crash":
        print("an illegal address", file=sys.stderr)
        os._exit(7)
    if name == "hang":
        time.sleep(60)
    print("noise")
    print(json.dumps({"row": name, "status": "done"}), flush=True)
"""


def run_workers(names, *, seconds=30.0):
    """Run rows in real processes; give what was taken by row, and their number."""
    taken, deadline, started = {}, time.monotonic() + seconds, []

    def start(left):
        started.append(left)
        words = [sys.executable, "-c", WORKER, ";".join(left)]
        return stream(words, env={}, deadline=deadline)

    run_rows(
        names,
        start,
        take=lambda event: taken.update({event["row"]: dict(event)}),
        deadline=deadline,
    )
    return taken, started


def test_a_row_that_ends_its_process_or_hangs_takes_no_other_with_it():
    taken, started = run_workers(["a", "crash", "b", "hang", "c"])
    assert [row for row in taken if taken[row]["status"] == "done"] == ["a", "b", "c"]
    assert taken["crash"]["note"] == (
        "the process ended with exit code 7: an illegal address"
    )
    assert taken["hang"]["note"].startswith("no answer in")
    assert [len(left) for left in started] == [5, 3, 1]


def test_what_a_deadline_cuts_off_is_not_reached():
    taken, started = run_workers(["a", "hang", "b"], seconds=0.4)
    assert list(taken) == ["a"] or not taken
    assert len(started) == 1
    said = []
    check = Check("gpu", False, lambda *words: [], lambda *row: said.append(row))
    check._values = check._times = check._memory = lambda deadline: None
    check.run(["memory"])
    assert [(name, row["status"]) for _, name, row in said] == [
        ("1b", "not reached"),
        ("7b", "not reached"),
    ]


def test_doubling_finds_what_the_plan_says_or_less(monkeypatch):
    tried = []

    def start(worker, deadline, size, rows):
        tried.append(int(rows))
        fits = int(rows) <= 128
        yield Event(device="NVIDIA H100 80GB HBM3", row="none")
        yield Event(row=size, status="done", fits=fits, peak=10 * int(rows))

    monkeypatch.setattr(
        "device.sections.read_plans",
        lambda kind: {"largest 1b": {"rows": 512, "peak": 6e3, "seconds": None}},
    )
    check = Check("gpu", False, lambda *words: [], lambda *row: None)
    check.results, check.start = {"memory": {"1b": {}}}, start
    check.device = {"device": "NVIDIA H100 80GB HBM3"}
    check._double("1b", time.monotonic() + 60)
    row = check.results["memory"]["1b"]
    assert tried == [512, 256, 128]
    assert row["rows"] == 128 and row["plan_rows"] == 512 and row["peak"] == 1280
    assert row["note"] == "256 rows do not fit"


def test_what_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ("jax", "no_such_package"))
    assert command.main("gpu", ["--dry"], doc="", script="") == 2
    said = capsys.readouterr().err
    assert said.startswith("missing: no_such_package. Run: python3 -m pip install")
    assert said.count("\n") == 1 and "--find-links" in said


def test_the_check_imports_nothing_that_it_does_not_name():
    """Of what lostjax needs, only jaxtyping: no tokenizers, grain, tyro, orbax."""
    code = (
        "import sys; sys.path[:0] = ['.', 'benchmarks']\n"
        "import device.sections, device.report, device.command\n"
        "named = {'jax', 'flax', 'optax', 'numpy', 'jaxtyping'}\n"
        "heavy = {'tokenizers', 'grain', 'tyro', 'orbax', 'xxhash', 'scipy',\n"
        "    'matplotlib', 'jinja2', 'tensorflow_datasets', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)), set(device.command.NEEDED) == named)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=plans.ROOT
    )
    assert done.stdout.strip() == "[] True", done.stdout + done.stderr


def test_the_committed_plans_have_every_row():
    everything = json.loads(plans.FILE.read_text())
    toys = {f"350m {name}" for name in list_forms("350m")}
    assert toys <= set(everything["here"])
    rows = {name for name in list_rows("times", "gpu") if "torch" not in name}
    rows |= {f"largest {size}" for size in list_rows("memory", "gpu")}
    assert set(everything) == {"here", "h100:1", "h200:1"}
    for topology in set(everything) - {"here"}:
        assert set(everything[topology]) == rows | {"made"}, topology
