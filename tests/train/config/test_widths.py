"""muP: features move as far at every width, where the usual start and rates do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.steps.gradient import make_gradient
from lostjax.steps.step import make_train_step
from lostjax.train.build.job import prepare_job
from lostjax.train.build.model import build_model, build_multipliers
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import init_state
from lostjax.train.config.checks import check_config
from lostjax.train.config.schema import ModelConfig, OptimConfig, TrainConfig
from lostjax.train.config.widths import at_width
from lostjax.train.devices.mesh import make_mesh

V = 64
BASE = ModelConfig(
    d_model=32, n_layers=1, n_heads=2, d_hidden=64, rank=8, delta=0.25, remat="none"
)


def make_batch():
    tokens_BT = jax.random.randint(jax.random.key(1), (4, 33), 0, V)
    ones_BT = jnp.ones((4, 32), jnp.int32)
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=ones_BT.astype(jnp.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1) - 1,
        example_B=jnp.arange(4),
        epoch_B=jnp.zeros(4, jnp.int32),
    )


def activations(model, state, batch):
    logits_BTV, seen = model.apply(
        {"params": state.params, "channels": state.channels},
        batch.tokens_BT,
        capture_intermediates=lambda module, _: module.name in ("attention", "mlp"),
        mutable=["intermediates"],
    )
    layers = seen["intermediates"]["layers"]
    parts = {name: layers[name]["__call__"][0] for name in ("attention", "mlp")}
    return {"logits": logits_BTV} | parts


def start(config):
    model = build_model(config, vocab_size=V)
    tx, _ = build_optimizer(
        OptimConfig(learning_rate=5e-3, warmup=0.0),
        steps=10_000,
        multipliers=build_multipliers(config, vocab_size=V),
    )
    state = init_state(model, tx, mesh=make_mesh("data:1"), key=jax.random.key(0))
    return model, tx, state


def movements(config):
    """Root mean square of how far activations move in five steps."""
    model, tx, state = start(config)
    batch = make_batch()
    before = activations(model, state, batch)
    step = jax.jit(make_train_step(make_gradient(model), tx))
    for _ in range(5):
        state, _ = step(state, batch)
    after = activations(model, state, batch)
    return {
        name: float(jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name]))))
        for name in before
    }


def test_features_move_as_far_at_every_width_under_mup_alone():
    usual = dataclasses.replace(BASE, linear="dense")
    narrow, wide = movements(usual), movements(at_width(usual, 128))
    scaled = movements(at_width(dataclasses.replace(usual, base_width=32), 128))
    for name in narrow:
        assert wide[name] > 2 * narrow[name], name
        assert 0.6 < scaled[name] / narrow[name] < 1.4, name


def test_so_they_do_through_factors_and_kept_channels():
    narrow = movements(BASE)
    scaled = movements(at_width(dataclasses.replace(BASE, base_width=32), 128))
    for name in narrow:
        assert 0.6 < scaled[name] / narrow[name] < 1.4, name


@pytest.mark.parametrize("linear", ["dense", "lost"])
def test_at_the_base_width_muP_is_the_usual_model(linear):
    usual = dataclasses.replace(BASE, linear=linear)
    mup = dataclasses.replace(usual, base_width=BASE.d_model)
    assert build_multipliers(usual, vocab_size=V) is None
    assert set(jax.tree.leaves(build_multipliers(mup, vocab_size=V))) == {1.0}
    ours, theirs = (
        build_model(config, vocab_size=V).init(
            jax.random.key(0), jnp.zeros((1, 2), int)
        )
        for config in (mup, usual)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_start_narrows_inside_by_the_root_and_at_the_head_in_full():
    wide = at_width(dataclasses.replace(BASE, linear="dense", base_width=32), 128)
    model = build_model(wide, vocab_size=V)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    for path, expected in (
        (("embed", "embedding"), 0.02),
        (("layers", "mlp", "down", "kernel"), 0.01),
        (("layers", "attention", "q", "kernel"), 0.01),
        (("head", "kernel"), 0.005),
    ):
        leaf = params
        for name in path:
            leaf = leaf[name]
        np.testing.assert_allclose(jnp.std(leaf), expected, rtol=0.03)


@pytest.mark.parametrize("name", ["muon", "galore"])
def test_optimisers_with_other_updates_are_refused(name):
    model = dataclasses.replace(BASE, base_width=32)
    with pytest.raises(ConfigError, match=f"not with --optim={name}"):
        check_config(TrainConfig(model=model, optim=OptimConfig(name=name)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base_width": -1}, "--model.base-width=-1"),
        ({"base_width": 40}, "--model.base-width: width 40"),
        ({"base_width": 32, "linear": "sltrain"}, "not with --model.linear=sltrain"),
    ],
)
def test_a_base_that_cannot_be_is_named(change, message):
    model = dataclasses.replace(BASE, **change)
    with pytest.raises(ConfigError, match=message):
        check_config(TrainConfig(model=model))


def test_a_base_that_a_layer_refuses_is_named(text_file, cache_dir):
    # At width 32 an eighth of a head's channels is none: four groups keep one in all.
    model = dataclasses.replace(
        at_width(BASE, 128), base_width=32, delta=0.04, channel_groups=4
    )
    data = dataclasses.replace(
        TrainConfig().data,
        source=str(text_file),
        cache_dir=str(cache_dir),
        tokenizer="bytes",
    )
    with pytest.raises(ConfigError, match="--model.base-width=32: "):
        prepare_job(TrainConfig(model=model, data=data, mesh="data:1"))
