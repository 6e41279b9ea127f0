"""FRUGAL from one mesh to another, through a checkpoint."""

import functools

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding

from lostjax import optim

SUBSPACES = {
    "blocks": optim.blocks(),
    "columns": optim.columns(),
    "rows": optim.rows(),
    "coordinates": optim.coordinates(),
    "svd": optim.gradient_svd(),
    "orthonormal": optim.random_orthonormal(),
}
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def auto_mesh(*sizes):
    names = ("x", "y")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def place(tree, mesh):
    """Shard the last axis of all that it divides, by hand."""

    def of(x):
        if x.ndim < 2 or x.shape[-1] % mesh.shape["x"]:
            return NamedSharding(mesh, jax.P())
        return NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "x"))

    return jax.tree.map(of, tree)


@pytest.mark.parametrize("name", SUBSPACES)
def test_a_state_moves_to_another_mesh(name, tmp_path):
    """Three updates on one mesh, saved, restored on another: as five on one device."""
    grads = [{"w": normal(4, 8, 32, seed=i), "b": normal(8, seed=i)} for i in range(5)]
    tx = optim.scale_by_frugal(update_gap=2, subspace=SUBSPACES[name])
    update, state = jax.jit(tx.update), jax.jit(tx.init)(grads[0])
    for g in grads:
        expected, state = update(g, state)

    abstract = jax.eval_shape(tx.init, grads[0])
    for mesh, steps in ((auto_mesh(2, 4), grads[:3]), (auto_mesh(8), grads[3:])):
        shardings = place(abstract, mesh)
        on = jax.jit(tx.update, out_shardings=(place(grads[0], mesh), shardings))
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            shardings,
        )
        with ocp.StandardCheckpointer() as checkpointer:
            if steps[0] is grads[0]:
                state = jax.jit(tx.init, out_shardings=shardings)(grads[0])
            else:
                state = checkpointer.restore(tmp_path / "state", target)
            for g in steps:
                updates, state = on(jax.device_put(g, place(g, mesh)), state)
                jax.block_until_ready(state)
            if steps[0] is grads[0]:
                checkpointer.save(tmp_path / "state", state)
    assert_close(updates, expected)
    assert state.full[0].mu["w"].sharding.mesh.shape == {"x": 8}
