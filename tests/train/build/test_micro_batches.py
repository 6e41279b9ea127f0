"""How many micro-batches a step takes."""

import numpy as np
import pytest
from jax.sharding import Mesh

from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.config.schema import (
    DataConfig,
    ObjectiveConfig,
    ReweightConfig,
    TrainConfig,
)
from lostjax.train.devices.mesh import make_mesh


class Tpu:
    platform = "tpu"
    device_kind = "TPU v5e"
    process_index = 0


def count(batch_size, seq_len, *, mesh="data:1", **fields):
    config = TrainConfig(
        batch_size=batch_size, data=DataConfig(seq_len=seq_len), **fields
    )
    return count_micro_batches(config, mesh=make_mesh(mesh))


@pytest.mark.parametrize(
    "batch_size, seq_len, parts",
    [(16, 256, 4), (16, 128, 2), (8, 128, 1), (4, 2048, 4), (15, 256, 3), (7, 256, 1)],
)
def test_a_cpu_is_given_as_few_positions_as_keep_it_busy(batch_size, seq_len, parts):
    assert count(batch_size, seq_len) == parts


def test_every_device_is_kept_busy():
    assert count(16, 256, mesh="data:2") == 2
    assert count(16, 256, mesh="data:2,fsdp:2") == 1
    assert count(16, 256, mesh="tensor:2") == 4


def test_what_was_asked_is_cut_further_or_kept():
    assert count(16, 256, accumulate=2) == 4
    assert count(16, 256, accumulate=8) == 8


def test_reweighting_gets_what_was_asked():
    reweighted = ObjectiveConfig(reweight=ReweightConfig(name="lin_upper"))
    assert count(16, 256, objective=reweighted) == 1


def test_accelerators_get_what_was_asked():
    mesh = Mesh(np.array([[[Tpu()]]]), ("data", "fsdp", "tensor"))
    config = TrainConfig(batch_size=16, data=DataConfig(seq_len=256), accumulate=2)
    assert count_micro_batches(config, mesh=mesh) == 2
