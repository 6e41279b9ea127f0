"""The vendors' compilers take fused attention, and plans count what it does."""

import importlib.util
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn import causal_bias, save_products
from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import plain_attention
from lostjax.nn.kernels.attention import (
    ShardedAttention,
    cudnn_attention,
    splash_attention,
)
from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.plan.targets import find_target

B, T, H, K = 8, 256, 4, 64
nothing_saveable = jax.checkpoint_policies.nothing_saveable
KERNELS = {
    "cudnn": ("h100:4", "jax_cuda12_plugin", cudnn_attention, "__cudnn$fmha"),
    "splash": ("v5e:2x2", "libtpu", splash_attention, "splash_mha"),
}


def compile_training(attend, topology, *, tensor, remat=None):
    """Compile what queries gather and its gradients on four devices."""
    devices = np.array(find_target(topology).devices).reshape(-1, tensor)
    mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    if attend is not plain_attention:
        attend = ShardedAttention(attend, mesh, ("data",), "tensor")

    def run(q, k, v, g, segments_BT):
        seen = Seen(causal_bias(T, segments_BT=segments_BT), segments_BT)

        def forward(q, k, v):
            # What follows wants attention's output again, as the matrix o does.
            return jnp.sin(attend(q, k, v, seen))

        if remat is not None:
            forward = jax.checkpoint(forward, policy=remat)
        y, pull = jax.vjp(forward, q, k, v)
        return y, pull(g)

    heads = NamedSharding(mesh, P("data", None, "tensor"))
    arrays = [jax.ShapeDtypeStruct((B, T, H, K), jnp.bfloat16, sharding=heads)] * 4
    rows = NamedSharding(mesh, P("data"))
    arrays.append(jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=rows))
    compiled = jax.jit(run).lower(*arrays).compile()
    program = compiled.as_text()
    axes = {"data": 4 // tensor, "tensor": tensor}
    return program, count_costs(parse_program(program), axes=axes)


def count_kernels(program, mark):
    return sum(
        each.opcode == "custom-call" and mark in each.name + each.attributes
        for computation in parse_program(program).computations.values()
        for each in computation.instructions
    )


def needs(compiler):
    if importlib.util.find_spec(compiler) is None:
        message = f"no {compiler}, no attention was compiled: pip install -e '.[plan]'"
        warnings.warn(pytest.PytestWarning(message), stacklevel=2)
        pytest.skip(message)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_scores_stay_on_the_chip(name, tensor):
    topology, compiler, attend, mark = KERNELS[name]
    needs(compiler)
    fused, fused_costs = compile_training(attend, topology, tensor=tensor)
    plain, plain_costs = compile_training(plain_attention, topology, tensor=tensor)
    assert count_kernels(fused, mark) == 2  # forward and backward
    scores = rf"\[{B * tensor // 4},{H // tensor},{T},{T}\]"
    assert re.search(scores, plain)
    assert not re.search(scores, fused)
    assert not fused_costs.collectives
    assert fused_costs.has_cudnn == (name == "cudnn")
    # Seven products where XLA has six; all of them the whole square.
    assert plain_costs.flops == 6 * 2 * B * H * T * T * K / 4
    assert fused_costs.flops == 7 * 2 * B * H * T * T * K / 4


@pytest.mark.parametrize(
    ("name", "again"), [("splash", 0), ("cudnn", 1)], ids=["splash", "cudnn"]
)
def test_what_a_policy_keeps_of_attention_spares_it(name, again):
    """What cuDNN's backward pass wants beside its output has no name."""
    topology, compiler, attend, mark = KERNELS[name]
    needs(compiler)
    for remat, n_forward in ((save_products, 1 + again), (nothing_saveable, 2)):
        program, _ = compile_training(attend, topology, tensor=1, remat=remat)
        assert count_kernels(program, mark) == n_forward + 1
