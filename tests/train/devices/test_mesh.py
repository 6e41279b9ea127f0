"""Meshes, the sharding table and the placing of batches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.train.devices.mesh import make_mesh, parse_mesh, resolve_mesh
from lostjax.train.devices.sharding import place_batch, spec_for, tree_shardings


@pytest.mark.parametrize(
    "text, sizes",
    [
        ("data:8", {"data": 8}),
        ("data:4,fsdp:2", {"data": 4, "fsdp": 2}),
        ("data:-1", {"data": -1}),
    ],
)
def test_meshes_are_read(text, sizes):
    assert parse_mesh(text) == sizes


@pytest.mark.parametrize(
    "text, message",
    [
        ("dta:8", "no axis is called 'dta'; the axes are data, fsdp, tensor"),
        ("data", "the size of data is ''"),
        ("data:0", "the size of data is '0'"),
        ("data:-2", "the size of data is '-2'"),
        ("data:x", "the size of data is 'x'"),
        ("data:²", "the size of data is '²'"),
        ("data:" + "9" * 5000, "the size of data is '9+'; it must be a positive"),
        ("data:2,data:4", "axis data is given twice"),
        ("data:-1,fsdp:-1", "only one axis can be -1"),
        ("", "no axis is called ''"),
        ("data:2,", "no axis is called ''"),
    ],
)
def test_wrong_meshes_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_mesh(text)


def test_minus_one_is_the_rest():
    sizes = resolve_mesh("tensor:2,data:-1", n_devices=8, found="8 x cpu")
    assert sizes == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    "text, message",
    [
        ("data:16", r"needs 16 devices, but there are 8 \(8 x cpu\)"),
        ("data:-1,fsdp:3", "3 does not divide the 8 devices"),
        ("data:-1,fsdp:16", "16 does not divide the 8 devices"),
    ],
)
def test_meshes_that_cannot_be_name_the_devices(text, message):
    with pytest.raises(ConfigError, match=message):
        resolve_mesh(text, n_devices=8, found="8 x cpu")


AXES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    "path, shape, spec",
    [
        ("params/layers/mlp/up/kernel", (2, 8, 16), P(None, "fsdp", "tensor")),
        ("params/layers/mlp/up/a", (2, 16, 4), P(None, "fsdp", None)),
        ("params/layers/mlp/up/b", (2, 4, 16), P(None, None, ("tensor", "fsdp"))),
        ("params/layers/mlp/up/values", (2, 3, 8), P(None, None, ("tensor", "fsdp"))),
        # A width that nothing divides: the rank is cut instead.
        ("params/layers/mlp/up/b", (2, 4, 5461), P(None, "fsdp", None)),
        ("params/layers/mlp/down/a", (2, 16, 4), P(None, "tensor", "fsdp")),
        ("params/layers/mlp/down/values", (2, 4, 8), P(None, "tensor", "fsdp")),
        ("opt_state/1/mu/layers/mlp/up/kernel", (2, 8, 16), P(None, "fsdp", "tensor")),
        ("params/layers/mlp/up/kernel", (2, 7, 16), P(None, None, "tensor")),
        ("params/layers/mlp_norm/scale", (2, 8), P()),
        ("opt_state/1/count", (), P()),
        # Kept rows that the axis does not divide are cut along the columns.
        (
            "opt_state/1/full/0/mu/layers/mlp/up/kernel",
            (2, 3, 16),
            P(None, None, ("tensor", "fsdp")),
        ),
        (
            "opt_state/1/full/0/mu/layers/mlp/up/kernel",
            (2, 2, 16),
            P(None, "fsdp", "tensor"),
        ),
        ("params/head/kernel", (8, 16), P("fsdp", "tensor")),
        ("opt_state/1/past/head/kernel", (8, 16), P("fsdp", "tensor")),
        ("memory/outputs/ids", (9, 2, 8, 5), P(None, None, ("data", "fsdp"))),
        ("memory/outputs/log_rest", (9, 2, 8), P(None, None, ("data", "fsdp"))),
        ("memory/written_XS", (9, 2), P()),
    ],
)
def test_specs_follow_the_table(path, shape, spec):
    assert spec_for(path, shape, AXES) == spec


def test_axes_of_size_one_are_left_out():
    axes = {"data": 8, "fsdp": 1, "tensor": 1}
    spec = spec_for("params/head/kernel", (8, 16), axes)
    assert spec == P(None, None)


@pytest.mark.parametrize("mesh", ["data:8", "data:2,fsdp:2,tensor:2", "tensor:8"])
def test_a_placed_batch_is_the_batch(mesh):
    rows_BT = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
    numbers_B = np.arange(16, dtype=np.int32)
    whole = Batch(*[rows_BT + i for i in range(5)], numbers_B, numbers_B // 7)
    reads = []

    class Plan:
        batch_size = 16

        def batch_at(self, number, *, rows):
            assert number == 3
            reads.append((rows.start, rows.stop))
            return jax.tree.map(lambda leaf: leaf[rows], whole)

    placed = place_batch(Plan(), 3, mesh=make_mesh(mesh))
    assert placed.factors_BT is None
    for ours, theirs in zip(*map(jax.tree.leaves, (placed, whole)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert len(ours.addressable_shards) == jax.device_count()
    assert len(reads) == len(set(reads)), "no row is read twice"


def test_kept_parts_are_cut_by_factors_of_an_axis():
    """Eight devices divide neither 10 rows nor 12 columns, but two and four do."""
    mesh = make_mesh("fsdp:8")
    kept = jax.ShapeDtypeStruct((1, 10, 12), jnp.float32)
    whole = jax.ShapeDtypeStruct((1, 40, 12), jnp.float32)

    def tree(leaf):
        return {"layers": {"mlp": {"up": {"kernel": leaf}}}}

    state = {"opt_state": {"1": {"full": tree(kept)}}, "params": tree(whole)}
    shardings = tree_shardings(state, mesh)
    (cut,), (plain,) = (jax.tree.leaves(shardings[k]) for k in ("opt_state", "params"))
    assert plain == NamedSharding(mesh, P(None, "fsdp", None))
    assert math.prod(cut.shard_shape(kept.shape)) * 8 == 10 * 12

    @functools.partial(jax.jit, out_shardings=cut)
    def step(kept, whole):
        return kept + whole.reshape(1, 10, 4, 12)[:, :, 0]

    held = jax.device_put(jnp.ones(kept.shape), cut)
    made = step(held, jax.device_put(jnp.ones(whole.shape), plain))
    assert made.sharding == cut
    np.testing.assert_array_equal(made, 2)
