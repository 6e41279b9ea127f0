"""The order of examples: the same on any mesh and any number of processes, counted."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lostjax.train import stepping
from lostjax.train.__main__ import main

ROOT = Path(__file__).parents[2]
STEPS, BATCH = 44, 8
SCRIPT = Path(__file__).with_name("placed_rows.py")


@pytest.mark.usefixtures("plain_report", "compile_once")
@pytest.mark.slow
def test_every_example_comes_once_an_epoch_over_restarts_and_meshes(
    text_file, cache_dir, tmp_path, monkeypatch
):
    seen, stops = [], [9, 20, None]
    real = stepping.place_batch

    def count(*arguments, **named):
        batch = real(*arguments, **named)
        seen.append(np.asarray(batch.example_B))
        if len(seen) == stops[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    monkeypatch.setattr(stepping, "place_batch", count)
    words = [
        "--preset=smoke", f"--data.source={text_file}", f"--data.cache-dir={cache_dir}",
        "--data.seq-len=256", f"--run-dir={tmp_path / 'run'}", f"--steps={STEPS}",
        f"--batch-size={BATCH}", "--model.n-layers=1", "--model.linear=dense",
    ]  # fmt: skip
    for mesh in ("data:1", "data:1", "data:2,fsdp:2,tensor:2"):
        code = main([*words, f"--mesh={mesh}"])
        assert code == (0 if stops.pop(0) is None else 143)
    order = np.concatenate(seen)
    assert len(order) == STEPS * BATCH, "no step is missing or done twice"
    n_rows = order.max() + 1
    assert 2 * n_rows <= len(order), "the run goes twice through its examples"
    for epoch in range(2):
        counts = Counter(order[epoch * n_rows : (epoch + 1) * n_rows].tolist())
        assert counts == dict.fromkeys(range(n_rows), 1)


@pytest.mark.torture
def test_processes_and_meshes_place_the_same_rows(
    text_file, cache_dir, host_flags, tmp_path
):
    words = [
        "--preset=smoke", f"--data.source={text_file}", f"--data.cache-dir={cache_dir}",
        "--data.seq-len=256", f"--steps={STEPS}", f"--batch-size={BATCH}",
        f"--run-dir={tmp_path / 'run'}",
    ]  # fmt: skip
    placed = [
        rows_placed([words + ["--mesh=data:4"]]),
        rows_placed([words + ["--mesh=fsdp:2,tensor:2"]]),
        rows_placed([words + extra for extra in host_flags(2)]),
        rows_placed([words + extra for extra in host_flags(4)]),
        rows_placed(
            [
                [word.replace("data:4", "data:2,fsdp:2") for word in words + extra]
                for extra in host_flags(2)
            ]
        ),
    ]
    assert len(placed[0]) == STEPS * BATCH
    for other in placed[1:]:
        assert other == placed[0]


def rows_placed(commands):
    """Run processes that place every batch; gives what lies where of all of them."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    group = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *words],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    rows = {}
    for process in group:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        for place, content in json.loads(out.splitlines()[-1]).items():
            assert rows.setdefault(place, content) == content
    return rows
