"""The training step on real models: accumulation, meshes, remat, and what it learns."""

import dataclasses

import numpy as np
import pytest

from lostjax.train.config import ModelConfig
from lostjax.train.presets import get_preset
from lostjax.train.trial import run_trial

MODEL = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, d_hidden=64, rank=8, delta=0.25,
    channel_groups=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def smoke(text_file, cache_dir):
    preset = get_preset("smoke")
    data = dataclasses.replace(
        preset.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=32
    )
    return dataclasses.replace(preset, model=MODEL, data=data, mesh="data:1", steps=20)


@pytest.fixture(scope="module")
def alone(smoke):
    return run_trial(smoke)


@pytest.mark.newest
@pytest.mark.parametrize(
    "mesh", ["data:8", "data:2,fsdp:4", "data:2,fsdp:2,tensor:2", "tensor:2"]
)
def test_every_mesh_computes_what_one_device_does(smoke, alone, mesh):
    trial = run_trial(dataclasses.replace(smoke, mesh=mesh))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)
    np.testing.assert_allclose(trial.evaluation.loss, alone.evaluation.loss, rtol=1e-5)


def test_the_loss_falls(alone):
    assert alone.losses[-1] < alone.losses[0] - 1.0
    assert abs(alone.losses[0] - np.log(257)) < 0.2


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_big_batch(smoke, alone, accumulate):
    trial = run_trial(dataclasses.replace(smoke, accumulate=accumulate))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full", "bottleneck"])
def test_remat_changes_no_loss(smoke, alone, remat):
    model = dataclasses.replace(MODEL, remat=remat)
    trial = run_trial(dataclasses.replace(smoke, model=model))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)
