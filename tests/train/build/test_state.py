"""The first state: the same bits on every mesh, and each array on its shards."""

import jax
import numpy as np
import pytest

from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import init_state
from lostjax.train.config.schema import ModelConfig, OptimConfig
from lostjax.train.devices.mesh import make_mesh

CONFIG = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, d_hidden=64, rank=8, delta=0.25,
    correct_variance=True,
)  # fmt: skip


def first_state(mesh):
    model = build_model(CONFIG, vocab_size=64)
    tx, _ = build_optimizer(OptimConfig(), steps=10)
    return init_state(model, tx, mesh=make_mesh(mesh), key=jax.random.key(3))


@pytest.fixture(scope="module")
def alone():
    return first_state("data:1")


@pytest.mark.parametrize("mesh", ["data:8", "fsdp:8", "data:2,fsdp:2,tensor:2"])
def test_initialisation_has_the_same_bits_on_every_mesh(alone, mesh):
    state = first_state(mesh)
    paths = jax.tree_util.tree_leaves_with_path(alone)
    for (path, ours), theirs in zip(paths, jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=jax.tree_util.keystr(path))


def test_fsdp_cuts_parameters_and_moments():
    state = first_state("fsdp:8")
    for tree in (state.params, state.opt_state):
        big = [leaf for leaf in jax.tree.leaves(tree) if leaf.size >= 1000]
        assert big
        for leaf in big:
            assert leaf.addressable_shards[0].data.size * 8 == leaf.size, leaf.shape


def test_kept_channels_are_integers_and_not_parameters(alone):
    kept = jax.tree.leaves(alone.channels)
    assert len(kept) == 7 and all(leaf.dtype == np.int32 for leaf in kept)
    assert not any(
        "kept" in jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(alone.params)
    )
