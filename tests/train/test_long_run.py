"""Thousands of steps: the process, its files and its buffers do not grow with them."""

import dataclasses
import gc
import itertools
import resource
import sys

import jax
import pytest

from lostjax.train import session, stepping
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import ModelConfig
from lostjax.train.log.json_lines import read_metrics

STEPS = 6000
EVERY = 500
WARM = 2000
"""Steps after which allocators and caches are as large as they get."""
LEAST_GROWTH = 8e6
"""Bytes that a process may grow by from noise."""


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_steps(
    text_file, cache_dir, tmp_path, monkeypatch, capsys
):
    """Checkpoints, evaluations and readings included."""
    preset = get_preset("smoke")
    config = dataclasses.replace(
        preset,
        steps=STEPS,
        batch_size=2,
        mesh="data:1",
        checkpoint_every=1000,
        eval_every=1500,
        run_dir=str(tmp_path / "run"),
        model=ModelConfig(
            d_model=16, n_layers=1, n_heads=2, d_hidden=24, rank=4, delta=0.25
        ),
        data=dataclasses.replace(
            preset.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=16
        ),
        stability=dataclasses.replace(preset.stability, every=500),
    )
    seen = []
    place = stepping.place_batch
    numbers = itertools.count()

    def look(*arguments, **options):
        if next(numbers) % EVERY == EVERY // 2:  # no checkpoint is under way
            gc.collect()
            seen.append((resident_bytes(), len(jax.live_arrays())))
        return place(*arguments, **options)

    monkeypatch.setattr(stepping, "place_batch", look)
    assert session.train(config, command="", started=0.0).exit_code == 0
    assert len(read_metrics(tmp_path / "run")) == STEPS
    sizes, arrays = zip(*seen, strict=True)
    with capsys.disabled():
        print("\nMB:", *(f"{size / 1e6:.1f}" for size in sizes), "arrays:", *arrays)
    assert arrays[-1] <= arrays[WARM // EVERY]
    assert sizes[-1] - sizes[WARM // EVERY] < LEAST_GROWTH
