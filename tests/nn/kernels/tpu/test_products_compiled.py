"""The TPU's own compiler takes the kernels: on any x86 Linux, without a TPU."""

import importlib.util
import os
import re
import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.sharded import ShardedProducts
from lostjax.nn.kernels.tpu.blocks import V5E, V5P, V6E
from lostjax.nn.kernels.tpu.products import mosaic_products
from lostjax.train.config.presets import get_preset

if importlib.util.find_spec("libtpu") is None:
    message = "no libtpu, no TPU kernel was compiled: pip install -e '.[plan]'"
    warnings.warn(pytest.PytestWarning(message), stacklevel=1)
    pytest.skip(message, allow_module_level=True)

# No metadata server is asked and no device is opened, so others may do the same.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

CHIPS = {"v5e:2x2": V5E, "v5p:2x2x1": V5P, "v6e:2x2": V6E}
SIZES = {
    size: get_preset(f"lost_{size}").model
    for size in ("60m", "130m", "350m", "1b", "7b")
}
# A v5p's VMEM does not hold these beside float32 sums of their gradients.
FORWARD_ONLY = {("v5p:2x2x1", "7b")}


def kernels_in_training(topology, n_inputs, n_outputs, rank, *, n_rows, n_siblings=1):
    """Compile forward and backward for one chip; name the kernels in the program."""
    n_kept = max(1, n_inputs // 100)

    def train(x, gs, learnt, kept):
        def product(x, learnt):
            siblings = [
                BottleneckWeights(*own, indices, 0.7)
                for own, indices in zip(learnt, kept, strict=True)
            ]
            products = partial(mosaic_products, chip=CHIPS[topology])
            return products(x, siblings, activation=nn.silu)

        products, pull = jax.vjp(product, x, learnt)
        return products, pull(gs)

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    own = (array(n_inputs, rank), array(rank, n_outputs), array(n_kept, n_outputs))
    arguments = (
        array(n_rows, n_inputs),
        (array(n_rows, n_outputs),) * n_siblings,
        (own,) * n_siblings,
        (array(n_kept, dtype=jnp.int32),) * n_siblings,
    )
    described = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    one = NamedSharding(Mesh(np.array(described.devices[:1]), ("chip",)), P())
    step = jax.jit(train, in_shardings=one, out_shardings=one)
    return named_kernels(step.lower(*arguments).compile().as_text())


def named_kernels(program):
    calls = re.findall(
        r"%(\w+)[.\d]* = .*custom_call_target=\"tpu_custom_call\"", program
    )
    return sorted(calls)


@pytest.mark.parametrize("topology", CHIPS)
def test_small_siblings_are_lowered_to_kernels_that_they_share(topology):
    sizes = (512, 1376, 128)
    calls = kernels_in_training(topology, *sizes, n_rows=512, n_siblings=2)
    assert calls == ["lost_backward", "lost_forward"]


def test_on_a_mesh_every_device_has_the_kernels():
    described = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu")
    axes = ("data", "fsdp", "tensor")
    mesh = Mesh(np.array(described.devices).reshape(1, 2, 2), axes)
    product = ShardedProducts(mosaic_products, mesh, axes[:2], outputs="tensor")

    def train(x, g, a, b):
        def run(x, a, b):
            return product(x, [BottleneckWeights(a, b)], activation=nn.silu)[0]

        y, pull = jax.vjp(run, x, a, b)
        return y, *pull(g)

    shapes = [(512, 256), (512, 512), (256, 128), (128, 512)]
    specs = [P("fsdp"), P("fsdp", "tensor"), P("fsdp"), P(None, ("tensor", "fsdp"))]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    out = tuple(shardings[index] for index in (1, 0, 2, 3))
    step = jax.jit(train, in_shardings=tuple(shardings), out_shardings=out)
    program = step.lower(*arrays).compile().as_text()
    assert named_kernels(program) == ["lost_backward", "lost_forward"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down", "square"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("topology", CHIPS)
def test_every_paper_shape_is_lowered_to_the_kernels(topology, size, way):
    model = SIZES[size]
    width, hidden, rank = model.d_model, model.d_hidden, model.rank
    ends = {"up": (width, hidden), "down": (hidden, width), "square": (width, width)}
    calls = kernels_in_training(topology, *ends[way], rank, n_rows=8192)
    both = ["lost_backward", "lost_forward"]
    assert calls == (both[1:] if (topology, size) in FORWARD_ONLY else both)


# Of 1b v5p's VMEM does not hold all sums; of 7b no chip's does.
APART = {("v5p:2x2x1", "1b"), *((topology, "7b") for topology in CHIPS)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gate and up", "q, k and v"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("topology", CHIPS)
def test_siblings_of_every_paper_size_share_kernels_or_have_their_own(
    topology, size, family
):
    model = SIZES[size]
    width, hidden, rank = model.d_model, model.d_hidden, model.rank
    n_outputs, n_siblings = {"gate and up": (hidden, 2), "q, k and v": (width, 3)}[
        family
    ]
    calls = kernels_in_training(
        topology, width, n_outputs, rank, n_rows=8192, n_siblings=n_siblings
    )
    each = n_siblings if (topology, size) in APART else 1
    backward = 0 if (topology, size) in FORWARD_ONLY else each
    assert calls == ["lost_backward"] * backward + ["lost_forward"] * each
