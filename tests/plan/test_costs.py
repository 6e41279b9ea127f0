"""Costs of compiled programs: loops count by their trips, collectives by their axes."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.train.devices.mesh import make_mesh

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
D, ROWS = 24, 40


def compiled_text(function, *shapes, **options):
    made = jax.jit(function, **options)
    return made.lower(*shapes).compile()


def costs_of(function, *shapes):
    return count_costs(
        parse_program(compiled_text(function, *shapes).as_text()), axes=ONE
    )


def layers(x_PD, weights_LDD, *, unroll=1):
    def layer(x_PD, weight_DD):
        return jnp.tanh(x_PD @ weight_DD), None

    return jax.lax.scan(layer, x_PD, weights_LDD, unroll=unroll)[0]


def shapes(n_layers):
    return (
        jax.ShapeDtypeStruct((ROWS, D), jnp.float32),
        jax.ShapeDtypeStruct((n_layers, D, D), jnp.float32),
    )


def test_a_loops_body_counts_as_often_as_it_runs():
    once = 2 * ROWS * D * D
    for n_layers in (3, 7):
        found = costs_of(layers, *shapes(n_layers))
        assert found.flops == n_layers * once
    gradient = jax.grad(lambda x, w: layers(x, w).sum(), argnums=(0, 1))
    assert costs_of(gradient, *shapes(7)).flops == 3 * 7 * once


def test_flops_are_those_of_xlas_own_analysis_where_nothing_loops():
    def step(x, w):
        return jnp.sum(layers(x, w, unroll=5) ** 2)

    compiled = compiled_text(jax.grad(step, argnums=(0, 1)), *shapes(5))
    ours = count_costs(parse_program(compiled.as_text()), axes=ONE)
    theirs = compiled.cost_analysis()
    # They count elementwise operations too: some ten for each entry.
    assert ours.flops <= theirs["flops"] <= ours.flops + 5 * 12 * ROWS * D + 5 * D * D


@pytest.mark.parametrize("n_layers", [2, 6])
def test_bytes_of_a_loop_grow_with_its_trips(n_layers):
    # Each layer reads its weight, and reads and writes its rows.
    per_layer = 4 * (D * D + 2 * ROWS * D)
    found = costs_of(layers, *shapes(n_layers)).hbm_bytes
    assert n_layers * per_layer <= found <= 3 * n_layers * per_layer


def test_a_slice_of_a_large_array_costs_the_slice():
    def pick(table, start):
        return jax.lax.dynamic_slice(table, (start, 0), (4, 8)) * 2.0

    found = costs_of(
        pick,
        jax.ShapeDtypeStruct((10_000, 8), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    assert found.hbm_bytes < 10 * 4 * 8 * 4


MOVES = {
    # A TPU's copies between HBM and VMEM, S(1), as its compiler writes them.
    "a slice into VMEM": (
        "((bf16[64,128]{1,0}), bf16[16,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), "
        "slice={[16:32], [0:128]}",
        16 * 128 * 2,
    ),
    "a copy into VMEM": (
        "(bf16[64,128]{1,0:S(1)}, bf16[64,128]{1,0}, u32[]{:S(2)}) copy-start(%x)",
        64 * 128 * 2,
    ),
    "a copy within HBM": (
        "(bf16[64,128]{1,0}, bf16[64,128]{1,0}, u32[]{:S(2)}) copy-start(%x)",
        2 * 64 * 128 * 2,
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_of_what_moves_into_vmem_one_side_counts(name):
    move, n_bytes = MOVES[name]
    text = f"""HloModule m

ENTRY %main (x: bf16[64,128]) -> bf16[64,128] {{
  %x = bf16[64,128]{{1,0}} parameter(0)
  ROOT %move = {move}
}}
"""
    assert count_costs(parse_program(text), axes=ONE).hbm_bytes == n_bytes


def make_program(body, mesh_text):
    mesh = make_mesh(mesh_text)
    axes = dict(mesh.shape)
    found = body(mesh)
    return count_costs(parse_program(found.compile().as_text()), axes=axes)


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
def test_collectives_are_named_by_their_axis(axis):
    def body(mesh):
        spec = NamedSharding(mesh, P(axis))
        whole = NamedSharding(mesh, P())
        total = jax.jit(lambda x: x.sum(axis=0), in_shardings=spec, out_shardings=whole)
        return total.lower(jax.ShapeDtypeStruct((8, 100), jnp.float32))

    found = make_program(body, "data:2,fsdp:2,tensor:2")
    (only,) = found.collectives
    assert only.kind == "all-reduce" and only.axes == axis and only.times == 1
    assert only.bytes == 2 * 1 / 2 * 400


def test_collectives_over_two_axes_and_in_loops():
    def body(mesh):
        whole = NamedSharding(mesh, P())

        def gathered(x, weights):
            def layer(x, weight):
                full = jax.lax.with_sharding_constraint(weight, whole)
                return jnp.tanh(x @ full), None

            return jax.lax.scan(layer, x, weights)[0]

        stacked = NamedSharding(mesh, P(None, None, ("data", "fsdp")))
        made = jax.jit(gathered, in_shardings=(whole, stacked), out_shardings=whole)
        return made.lower(
            jax.ShapeDtypeStruct((5, 16), jnp.float32),
            jax.ShapeDtypeStruct((3, 16, 16), jnp.float32),
        )

    found = make_program(body, "data:4,fsdp:2")
    gathers = [each for each in found.collectives if each.kind == "all-gather"]
    assert {each.axes for each in gathers} == {"data+fsdp"}
    received = 3 * 16 * 16 * 4 * 7 / 8
    assert sum(each.bytes for each in gathers) == pytest.approx(received)


GROUPS = {
    "fsdp": [
        "{{0,1},{2,3}}",
        "[2,2]<=[4]",
        "mesh['axis_0'=2,'axis_1'=2] {'axis_1'}",
    ],
    "data": [
        "{{0,2},{1,3}}",
        "[2,2]<=[2,2]T(1,0)",
        "mesh['axis_0'=2,'axis_1'=2] {'axis_0'}",
        "mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_1'}",
    ],
    "data+fsdp": ["{{0,1,2,3}}", "[1,4]<=[4]", "{}"],
}


@pytest.mark.parametrize(
    "axes, groups", [(axes, text) for axes, texts in GROUPS.items() for text in texts]
)
def test_groups_are_read_in_all_ways_that_xla_writes_them(axes, groups):
    text = f"""HloModule m

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(256)}} parameter(0)
  ROOT %r = f32[8]{{0:T(256)}} all-reduce(%x), channel_id=1, replica_groups={groups}, \
use_global_device_ids=true, to_apply=%add
}}
"""
    found = count_costs(
        parse_program(text), axes={"data": 2, "fsdp": 2, "tensor": 1}
    ).collectives
    n = 4 if axes == "data+fsdp" else 2
    assert [(each.axes, each.bytes) for each in found] == [(axes, 2 * (n - 1) / n * 32)]


TPU = """HloModule jit_step, is_scheduled=true

%fused (p0: bf16[64,96], p1: bf16[4,96,32], p2: s32[]) -> bf16[64,32] {
  %p0 = bf16[64,96]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p1 = bf16[4,96,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %z = s32[]{:T(128)} constant(0)
  %s = bf16[1,96,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p1, %p2, %z, /*index=3*/%z), \
dynamic_slice_sizes={1,96,32}
  %b = bf16[96,32]{1,0:T(8,128)(2,1)} bitcast(%s)
  ROOT %c = bf16[64,32]{1,0:T(8,128)(2,1)} convolution(%p0, %b), \
dim_labels=bf_io->bf, metadata={op_name="jit(step)/dot_general"}
}

%condition (state: (s32[], bf16[64,96], bf16[4,96,32])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[64,96]{1,0}, bf16[4,96,32]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (state.1: (s32[], bf16[64,96], bf16[4,96,32])) -> (s32[], bf16[64,96], \
bf16[4,96,32]) {
  %state.1 = (s32[]{:T(128)}, bf16[64,96]{1,0:T(8,128)S(1)}, bf16[4,96,32]{2,1,0}) \
parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %x = bf16[64,96]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state.1), index=1
  %w = bf16[4,96,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=2
  %f = bf16[64,32]{1,0:T(8,128)(2,1)} fusion(%x, %w, %i.1), kind=kOutput, calls=%fused
  %step = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i.1, %step)
  ROOT %t = (s32[]{:T(128)}, bf16[64,96]{1,0:T(8,128)S(1)}, bf16[4,96,32]{2,1,0}) \
tuple(%next, %x, %w)
}

ENTRY %main (p: bf16[64,96], q: bf16[4,96,32]) -> (s32[], bf16[64,96], \
bf16[4,96,32]) {
  %p = bf16[64,96]{1,0:T(8,128)S(1)} parameter(0)
  %q = bf16[4,96,32]{2,1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)S(1)} copy(%zero)
  %a = (s32[]{:T(128)}, bf16[64,96]{1,0:T(8,128)S(1)}, bf16[4,96,32]{2,1,0}) \
tuple(%start, %p, %q)
  ROOT %loop = (s32[], bf16[64,96]{1,0:T(8,128)S(1)}, bf16[4,96,32]{2,1,0}) \
while(%a), condition=%condition, body=%body
}
"""


def test_a_tpus_program_is_read():
    found = count_costs(parse_program(TPU), axes=ONE)
    assert found.flops == 4 * 2 * 64 * 96 * 32
    # Rows lie in VMEM; the index and the weight's slice are read, the result written;
    # the index is counted on, and its start copied into VMEM.
    each = 4 + 2 * 96 * 32 + 2 * 64 * 32 + 3 * 4
    assert found.hbm_bytes == 4 * each + 4


@pytest.mark.parametrize(
    "start, step, bound, times",
    [(0, 1, 4, 4), (0, 2, 4, 2), (1, 2, 4, 2), (3, 3, 9, 2)],
)
def test_a_loop_runs_from_its_start_by_its_step_to_its_bound(start, step, bound, times):
    """Where pieces travel a ring in both directions a TPU's loop steps by two."""
    text = TPU
    for before, after in (("0", start), ("1", step), ("4", bound)):
        text = re.sub(
            rf"constant\({before}\)$", f"constant(={after})", text, flags=re.M
        )
    text = text.replace("constant(=", "constant(")
    found = count_costs(parse_program(text), axes=ONE)
    assert found.flops == times * 2 * 64 * 96 * 32


@pytest.mark.parametrize(
    "known, unknown",
    [
        ("constant(4)", "parameter(1)"),
        ("constant(1)", "parameter(1)"),
        ("%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} parameter(2)"),
        ("direction=LT", "direction=NE"),
        ("add(%i.1, %step)", "multiply(%i.1, %step)"),
        ("add(%i.1, %step)", "add(%i.1, %i.1)"),
    ],
)
def test_a_loop_without_a_known_count_counts_once_and_is_named(known, unknown):
    found = count_costs(parse_program(TPU.replace(known, unknown)), axes=ONE)
    assert found.flops == 2 * 64 * 96 * 32
    assert found.uncounted == ("loop",)
    assert not count_costs(parse_program(TPU), axes=ONE).uncounted


def test_a_loop_that_stops_by_its_data_is_named_as_jax_names_it():
    def halve(x_PD, weight_DD):
        return jax.lax.while_loop(
            lambda x: jnp.max(jnp.abs(x)) > 1, lambda x: x @ weight_DD, x_PD
        )

    found = costs_of(
        halve,
        jax.ShapeDtypeStruct((ROWS, D), jnp.float32),
        jax.ShapeDtypeStruct((D, D), jnp.float32),
    )
    assert found.flops == 2 * ROWS * D * D
    assert found.uncounted == ("jit(halve)/while",)


def test_all_branches_count_and_the_lightest_are_told():
    def step(due, x_PD, weight_DD):
        twice = jax.lax.cond(
            due, lambda: x_PD @ weight_DD @ weight_DD, lambda: x_PD + 1.0
        )
        return jax.lax.cond(
            due, lambda: jnp.tanh(twice) @ weight_DD, lambda: twice @ weight_DD.T
        )

    once = 2 * ROWS * D * D
    found = costs_of(
        step,
        jax.ShapeDtypeStruct((), jnp.bool_),
        jax.ShapeDtypeStruct((ROWS, D), jnp.float32),
        jax.ShapeDtypeStruct((D, D), jnp.float32),
    )
    assert (found.flops, found.least_flops) == (4 * once, once)
    assert found.least_hbm_bytes < 0.75 * found.hbm_bytes
    plain = costs_of(layers, *shapes(3))
    assert plain.least_flops == plain.flops
    assert plain.least_hbm_bytes == plain.hbm_bytes


def test_other_text_is_no_program():
    with pytest.raises(ValueError, match="no entry computation"):
        parse_program("HloModule x\n")


def test_sizes_of_types():
    text = TPU.replace("ROOT %c = bf16", "ROOT %c = f32")
    shape = parse_program(text).computations["fused"].root.shapes[0]
    assert shape == ("f32", (64, 32), False)
    assert shape.size == 64 * 32 and shape.bytes == 4 * 64 * 32


KERNEL = """HloModule m, is_scheduled=true

%fused (x: bf16[64,96]) -> (bf16[64,32], bf16[64,8]) {
  %x = bf16[64,96]{1,0:T(8,128)(2,1)} parameter(0)
  %k = (bf16[64,32]{1,0}, bf16[64,8]{1,0}) custom-call(%x), \
custom_call_target="tpu_custom_call", backend_config={"custom_call_config": \
{"body": "TUzv==", "cost_estimate": {
"bytes_accessed":15872,
"flops":1000,
"transcendentals":512
}, "serialization_format": 1}, "scoped_memory_configs": []}
  %y = bf16[64,32]{1,0} get-tuple-element(%k), index=0
  %h = bf16[64,8]{1,0} get-tuple-element(%k), index=1
  ROOT %t = (bf16[64,32]{1,0}, bf16[64,8]{1,0}) tuple(%y, %h)
}

ENTRY %main (a: bf16[64,96]) -> bf16[64,32] {
  %a = bf16[64,96]{1,0:T(8,128)(2,1)} parameter(0)
  %f = (bf16[64,32]{1,0}, bf16[64,8]{1,0}) fusion(%a), kind=kCustom, calls=%fused
  %again = bf16[64,96]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"30"}}}
  ROOT %r = bf16[64,32]{1,0} get-tuple-element(%f), index=0
}
"""


def test_a_kernel_counts_what_it_says_and_what_it_reads_and_writes():
    """Within a fusion its configuration is printed over several lines."""
    found = count_costs(parse_program(KERNEL), axes=ONE)
    assert found.flops == 1030
    assert found.hbm_bytes == 2 * 64 * (96 + 32 + 8) + 2 * 64 * (96 + 96)


@pytest.mark.parametrize("spec", [P("data"), P(None, "data")])
def test_collectives_of_shard_map_count_each(spec):
    """All of them have one channel."""

    def body(mesh):
        def twice(x):
            return jnp.tanh(jax.lax.psum(jnp.tanh(jax.lax.psum(x, "data")), "data"))

        made = jax.shard_map(twice, mesh=mesh, in_specs=spec, out_specs=P())
        return jax.jit(made).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32))

    (only,) = make_program(body, "data:2").collectives
    assert (only.kind, only.axes, only.times) == ("all-reduce", "data", 2)
    assert only.bytes == 2 * 2 * 1 / 2 * 32 * 4


@pytest.mark.parametrize(
    "opcode, kind, sent",
    [("dynamic-slice", "reduce-scatter", 3 / 4), ("negate", "all-reduce", 2 * 3 / 4)],
)
def test_a_sum_that_a_tpus_fusion_slices_is_a_reduce_scatter(opcode, kind, sent):
    text = f"""HloModule m

%all-reduce-scatter (x: f32[8,128], i: s32[], z: s32[]) -> f32[2,128] {{
  %x = f32[8,128]{{1,0}} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] parameter(2)
  %sum = f32[8,128]{{1,0}} all-reduce(%x), channel_id=1, replica_groups={{{{0,1,2,3}}}}
  ROOT %part = f32[2,128]{{1,0}} {opcode}(%sum, %i, %z), dynamic_slice_sizes={{2,128}}
}}

ENTRY %main (a: f32[8,128], i: s32[], z: s32[]) -> f32[2,128] {{
  %a = f32[8,128]{{1,0}} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] parameter(2)
  ROOT %f = f32[2,128]{{1,0}} fusion(%a, %i, %z), kind=kCustom, \\
calls=%all-reduce-scatter
}}
"""
    found = count_costs(parse_program(text), axes={"data": 4, "fsdp": 1, "tensor": 1})
    (only,) = found.collectives
    assert (only.kind, only.axes, only.times) == (kind, "data", 1)
    assert only.bytes == sent * 8 * 128 * 4
