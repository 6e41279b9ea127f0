"""What a run says before its first step is compiled on a CPU."""

import dataclasses
import re

import jax
import pytest

from lostjax.train.build.run import build_run
from lostjax.train.config.presets import get_preset
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.report import forecast
from lostjax.train.report.forecast import describe_forecast
from lostjax.trees import count_bytes


def build(name, *, mesh="data:8", **values):
    config = dataclasses.replace(get_preset(name), mesh=mesh, **values)
    return build_run(config, mesh=make_mesh(mesh), vocab_size=4096)


@pytest.fixture
def speed(monkeypatch):
    """A CPU of 50 GFLOP/s; gives the list of measurements."""
    measured = []

    def measure(dtype):
        measured.append(dtype)
        return 5e10

    monkeypatch.setattr(forecast, "measure_speed", measure)
    return measured


def test_a_model_for_accelerators_says_what_a_step_takes_here(speed):
    run = build("lost_60m")
    said = describe_forecast(run)
    tokens = run.config.batch_size * run.config.data.seq_len
    seconds = run.flops_per_token * tokens / 5e10
    minutes = f"{round(seconds) // 60} min {round(seconds) % 60} s"
    assert said.startswith(f"on this CPU a step takes about {minutes} and ")
    assert "all 10,000 steps " in said and said.endswith(", or a smaller preset")
    (rows,) = re.findall(r"try --batch-size=(\d+) ", said)
    smaller = dataclasses.replace(run.config, batch_size=int(rows))
    build_run(smaller, mesh=run.mesh, vocab_size=4096)  # the mesh divides it
    assert "\n" not in said and len(speed) == 1


def test_models_for_laptops_say_nothing_and_measure_nothing(speed):
    for name in ("smoke", "tiny"):
        assert describe_forecast(build(name)) == ""
    assert not speed


def test_the_bytes_hold_the_state_and_grow_with_the_rows_of_a_micro_batch(speed):
    run = build("lost_60m", mesh="data:1")
    least = count_bytes(run.abstract) + count_bytes(run.abstract.params)
    assert forecast.count_step_bytes(run) > least


def test_too_little_memory_is_said(speed, monkeypatch):
    monkeypatch.setattr(forecast.os, "sysconf", lambda name: 10_000)
    assert "; this machine has 100 MB; try" in describe_forecast(build("lost_60m"))


def test_the_speed_is_that_of_a_matrix_product():
    assert 1e8 < forecast.measure_speed(jax.numpy.float32) < 1e14
