"""Which tensor went bad first: faults are planted, and found where they are."""

import functools

import jax
import jax.numpy as jnp
import pytest

from lostjax import nn
from lostjax.data import Batch
from lostjax.train.watch.first_bad import look_at_outputs, order_backward

B, T, V, L = 2, 6, 11, 3


@pytest.fixture(scope="module")
def model():
    return nn.Transformer(
        vocab_size=V, d_model=16, n_layers=L, n_heads=2, d_hidden=24,
        linear=functools.partial(nn.LowRankSparse, rank=4, delta=0.25),
        remat=jax.checkpoint_policies.nothing_saveable,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    tokens = jnp.arange(B * T).reshape(B, T) % V
    whole = jnp.ones((B, T), jnp.int32)
    return Batch(
        tokens_BT=tokens,
        targets_BT=tokens,
        weights_BT=jnp.ones((B, T)),
        segments_BT=whole,
        positions_BT=jnp.broadcast_to(jnp.arange(T), (B, T)),
        example_B=jnp.arange(B),
        epoch_B=jnp.zeros(B, jnp.int32),
    )


@pytest.fixture(scope="module")
def variables(model, batch):
    return model.init(jax.random.key(0), batch.tokens_BT)


def plant(variables, path, change):
    """Change one tensor of the parameters."""

    def at(found, leaf):
        here = jax.tree_util.keystr(found, simple=True, separator="/")
        return change(leaf) if here == path else leaf

    params = jax.tree_util.tree_map_with_path(at, variables["params"])
    changed = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), params, variables["params"]
    )
    assert sum(jax.tree.leaves(changed)) == 1
    return {**variables, "params": params}


def huge_in(layer):
    """Finite still, but its products are not."""
    return lambda leaf: leaf.at[layer].set(3e38)


def test_nothing_is_found_where_all_is_finite(model, variables, batch):
    found = look_at_outputs(model, variables, batch)
    assert found.bad == ()
    inner = ["layers/attention/q", "layers/attention/k", "layers/attention/v"]
    inner += ["layers/attention/o", "layers/mlp/gate", "layers/mlp/up"]
    order = ["embed", "layers", *inner, "layers/mlp/down", "final_norm"]
    assert sorted(order, key=found.entered.__getitem__) == order


@pytest.mark.parametrize(
    "path, layer, first",
    [
        ("embed/embedding", 3, "the output of embed"),
        (
            "layers/attention_norm/scale",
            1,
            "the output of layers/attention_norm, layer 1",
        ),
        ("layers/mlp_norm/scale", 0, "the output of layers/mlp_norm, layer 0"),
        ("layers/mlp_norm/scale", 2, "the output of layers/mlp_norm, layer 2"),
    ],
)
def test_an_overflow_is_found_where_it_begins(
    model, variables, batch, path, layer, first
):
    spoil = huge_in(layer)
    if path.startswith("embed"):
        spoil = lambda leaf: leaf.at[layer].set(jnp.inf)  # noqa: E731
    found = look_at_outputs(model, plant(variables, path, spoil), batch)
    assert found.bad[0] == first
    # All that follows is bad, too, and nothing before.
    layers = {text.rpartition(" ")[2] for text in found.bad if ", layer " in text}
    begin = 0 if path.startswith("embed") else layer
    assert layers == {str(one) for one in range(begin, L)}
    assert found.bad[-1] == "the output of final_norm"


def test_a_bad_parameter_is_told_from_what_it_makes(model, variables, batch):
    spoil = lambda leaf: leaf.at[1].set(jnp.nan)  # noqa: E731
    spoilt = plant(variables, "layers/mlp/up/a", spoil)
    found = look_at_outputs(model, spoilt, batch)
    assert found.bad[0] == "the parameters of layers/mlp/up, layer 1"


def test_gradients_are_ordered_from_the_head_down(model, variables, batch):
    entered = look_at_outputs(model, variables, batch).entered
    order = [
        ("head/kernel", None),
        ("final_norm/scale", None),
        ("layers/mlp/down/b", 2),
        ("layers/mlp/gate/a", 2),
        ("layers/attention/o/a", 2),
        ("layers/attention/v/a", 2),
        ("layers/attention/q/a", 2),
        ("layers/attention_norm/scale", 2),
        ("layers/mlp/down/b", 0),
        ("layers/attention/q/a", 0),
        ("embed/embedding", None),
    ]
    assert order_backward(sorted(order, key=str), entered) == order
