"""FRUGAL's state: its bytes are the paper's, and those of the formula."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lostjax import optim

GIB = 2**30
SUBSPACES = {
    "blocks": optim.blocks(),
    "columns": optim.columns(),
    "rows": optim.rows(),
    "coordinates": optim.coordinates(),
    "svd": optim.gradient_svd(),
    "orthonormal": optim.random_orthonormal(),
}


def llama(*, d, n_layers, d_hidden, vocab=32000):
    """Shapes of the paper's models: untied, SwiGLU, two norms a layer and one more."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    attention = {name: shape(n_layers, d, d) for name in "qkvo"}
    mlp = {
        "gate": shape(n_layers, d, d_hidden),
        "up": shape(n_layers, d, d_hidden),
        "down": shape(n_layers, d_hidden, d),
    }
    norms = {"norm1": shape(n_layers, d), "norm2": shape(n_layers, d)}
    return {
        "embed": shape(vocab, d),
        "layers": {"attention": attention, "mlp": mlp, **norms},
        "final_norm": shape(d),
        "lm_head": shape(d, vocab),
    }


LLAMAS = {
    "60M": llama(d=512, n_layers=8, d_hidden=1376),
    "130M": llama(d=768, n_layers=12, d_hidden=2048),
    "350M": llama(d=1024, n_layers=24, d_hidden=2736),
    "1B": llama(d=2048, n_layers=24, d_hidden=5461),
}


@pytest.mark.parametrize("subspace", ["columns", "rows", "blocks", "coordinates"])
@pytest.mark.parametrize(
    ("name", "adam", "quarter", "none"),
    [
        ("60M", 0.433, 0.291, 0.244),
        ("130M", 0.999, 0.525, 0.366),
        ("350M", 2.742, 1.052, 0.489),
        ("1B", 9.977, 3.227, 0.977),
    ],
)
def test_state_weighs_what_the_paper_says(name, adam, quarter, none, subspace):
    for density, expected in ((1.0, adam), (0.25, quarter), (0.0, none)):
        tx = optim.frugal(density=density, subspace=SUBSPACES[subspace])
        state = jax.eval_shape(tx.init, LLAMAS[name])
        assert round(optim.state_bytes(state) / GIB, 3) == expected


@pytest.mark.parametrize("name", SUBSPACES)
def test_bytes_equal_the_formula(name):
    params = {"w": jnp.ones((4, 16, 12)), "embed": jnp.ones((7, 3)), "b": jnp.ones(5)}
    tx = optim.scale_by_frugal(density=0.25, subspace=SUBSPACES[name])
    state = jax.eval_shape(tx.init, params)
    n_split, n_rest = 4 * 16 * 12, 7 * 3 + 5
    counts = 4 * (2 + 2 + 2)  # updates, bad entries; a clock's two; each Adam's
    basis = 4 * 4 * 12 * 3 if name == "svd" else 0  # of the shorter side
    expected = 8 * (n_rest + n_split // 4) + counts + basis
    assert optim.state_bytes(state) == expected
    # Nothing else is state: no masks, no indices, no keys.
    assert len(jax.tree.leaves(state)) == 6 + 2 * 3 + (name == "svd")


def test_first_moment_may_be_bfloat16():
    tx = optim.frugal(mu_dtype=jnp.bfloat16)
    state = jax.eval_shape(tx.init, {"w": jnp.ones((8, 8)), "b": jnp.ones(8)})
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state[0].full, "mu"))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state[0].full, "nu"))} == {
        jnp.dtype(jnp.float32)
    }
