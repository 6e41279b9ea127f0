"""The head by parts of the positions: the same sums and gradients, less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.losses import next_token_loss
from lostjax.plan.collectives import find_collectives
from lostjax.plan.hlo_text import parse_program
from lostjax.steps import head as positions
from lostjax.steps.head import count_parts, sum_over_positions
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.sharding import BATCH_SPEC

B, T, D, V = 8, 12, 5, 7


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    return (
        {"kernel": jax.random.normal(keys[0], (D, V))},
        jax.random.normal(keys[1], (B, T, D)),
        {
            "targets": jax.random.randint(keys[2], (B, T), 0, V),
            "weights": jax.random.uniform(keys[3], (B, T)),
        },
    )


def part(head, states_BTD, rows):
    log_p_BTV = jax.nn.log_softmax(states_BTD @ head["kernel"])
    values_BT = -jnp.take_along_axis(log_p_BTV, rows["targets"][..., None], -1)[..., 0]
    total = jnp.sum(rows["weights"] * values_BT)
    return total, ({"unweighted": jnp.sum(values_BT)}, (values_BT, log_p_BTV))


def differentiate(inputs, function):
    """Value, gradient and what else it gives; the total is scaled behind it."""

    def scaled(head, states_BTD, rows):
        total, rest = function(head, states_BTD, rows)
        return 3 * total, rest

    gradient = jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True)
    return jax.jit(gradient)(*inputs)


def assert_same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shards, least", [(1, 1), (1, 32), (2, 4), (8, 3), (1, 10**6)])
def test_parts_come_to_the_whole(inputs, monkeypatch, shards, least):
    monkeypatch.setattr(positions, "POSITIONS", least)
    parts = count_parts((B, T, 1), shards=shards)
    assert parts == {1: 12, 32: 3, 4: 12, 3: 4, 10**6: 1}[least]
    got = differentiate(
        inputs, lambda *args: sum_over_positions(part, *args, shards=shards)
    )
    assert_same(got, differentiate(inputs, part))
    value = jax.jit(lambda *args: sum_over_positions(part, *args, shards=shards))
    assert_same(value(*inputs), part(*inputs))


@pytest.mark.parametrize(
    "shape, shards, parts",
    [
        ((16, 256), 1, 4),
        ((16, 256), 4, 1),
        ((64, 1024), 8, 8),
        ((1, 1023), 1, 1),
        ((3, 1023), 1, 1),
        ((6, 1023), 1, 3),
        ((4096, 257), 1, 257),
    ],
)
def test_parts_are_as_many_as_leave_enough_to_each_device(shape, shards, parts):
    assert count_parts((*shape, 512), shards=shards) == parts


def test_a_wide_model_has_as_many_positions_as_components_in_a_part():
    """Else most of what moves would be the head and its gradient."""
    widths = {512: 16, 1024: 16, 2048: 8, 4096: 4, 10_000: 1}
    for width, parts in widths.items():
        assert count_parts((64, 256, width), shards=1) == parts


def test_the_head_is_rounded_once_and_its_gradient_summed_in_its_own_type(
    inputs, monkeypatch
):
    monkeypatch.setattr(positions, "POSITIONS", 1)
    head, states_BTD, rows = inputs
    seen = []

    def look(head, states_BTD, rows):
        seen.append(head["kernel"].dtype)
        return part(head, states_BTD, rows)

    (by_head, by_states), _ = jax.grad(
        lambda *args: sum_over_positions(look, *args), (0, 1), has_aux=True
    )(head, states_BTD.astype(jnp.bfloat16), rows)
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert by_head["kernel"].dtype == jnp.float32
    assert by_states.dtype == jnp.bfloat16
    # A sum of bfloat16 numbers in float32 is no bfloat16 number.
    rounded = by_head["kernel"].astype(jnp.bfloat16).astype(jnp.float32)
    assert np.any(rounded != by_head["kernel"])
    expected = jax.grad(lambda *args: part(*args)[0])(*inputs)["kernel"]
    np.testing.assert_allclose(by_head["kernel"], expected, rtol=0.05, atol=0.2)


def test_on_a_mesh_the_heads_gradient_crosses_devices_once(inputs, monkeypatch):
    monkeypatch.setattr(positions, "POSITIONS", 1)
    mesh = make_mesh("data:4,fsdp:2")
    rows, whole = NamedSharding(mesh, BATCH_SPEC), NamedSharding(mesh, P())
    gradient = jax.jit(
        jax.grad(
            lambda *args: sum_over_positions(part, *args, shards=8)[0], argnums=(0, 1)
        ),
        in_shardings=(whole, rows, rows),
        out_shardings=(whole, rows),
    )
    compiled = gradient.lower(*inputs).compile()
    program = parse_program(compiled.as_text())
    found = find_collectives(program, axes=dict(mesh.shape))
    assert [(one.kind, one.axes, one.times) for one in found] == [
        ("all-reduce", "data+fsdp", 1)
    ]
    assert_same(
        compiled(*jax.device_put(inputs, (whole, rows, rows))),
        jax.grad(lambda *args: part(*args)[0], argnums=(0, 1))(*inputs),
    )


def test_the_logits_are_never_whole():
    shape, states = (16, 256), jnp.zeros((16, 256, 8))
    head = {"kernel": jnp.zeros((8, 4096))}
    rows = {"targets": jnp.zeros(shape, jnp.int32), "weights": jnp.ones(shape)}

    def lean(head, states_BTD, rows):
        values_BT = next_token_loss(states_BTD @ head["kernel"], rows["targets"])
        return jnp.sum(rows["weights"] * values_BT), ((), ())

    def temporary_bytes(function):
        gradient = jax.jit(jax.grad(lambda *args: function(*args)[0], (0, 1)))
        compiled = gradient.lower(head, states, rows).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert count_parts(states.shape, shards=1) == 4
    in_parts = temporary_bytes(lambda *args: sum_over_positions(lean, *args))
    assert in_parts < 0.5 * temporary_bytes(lean)
