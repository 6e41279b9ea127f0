"""Every option of the model reaches the model: each one changes the output."""

import dataclasses
import logging
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn import activation_bytes
from lostjax.nn.attention.blocked import blocked_attention
from lostjax.nn.kernels.attention import splash_attention
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.nn.kernels.tpu.blocks import V5E
from lostjax.nn.kernels.tpu.products import mosaic_products, on_tpu
from lostjax.train.build import model as models
from lostjax.train.build.model import build_model, choose_attention, place_model
from lostjax.train.config.schema import ModelConfig
from lostjax.train.devices.mesh import make_mesh

BASE = ModelConfig(
    d_model=16, n_layers=1, n_heads=2, d_hidden=24, rank=4, delta=0.25, remat="none"
)
TOKENS = jnp.arange(8).reshape(1, 8)

CHANGES = [
    ("linear", "dense"),
    ("rank", 5),
    ("delta", 0.5),
    ("delta", 0.0),
    ("gamma", 0.4),
    ("activation", "none"),
    ("channels", "largest"),
    ("channels", "random"),
    ("factors", "scaled_normal"),
    ("correct_variance", True),
    ("channel_groups", 2),
    ("keep_swiglu_silu", False),
    ("qk_norm", True),
    ("dtype", "bfloat16"),
    ("n_layers", 2),
    ("n_heads", 4),
    ("d_model", 20),
    ("d_hidden", 28),
    ("base_width", 8),
]
NO_CHANGE_AT_THE_START = [
    ("learn_gamma", True),
    ("remat", "full"),
    ("remat", "products"),
    ("remat", "bottleneck"),
    ("product", "mosaic_tpu"),
    ("attention", "cudnn"),
    ("attention", "splash"),
]


def test_every_option_is_tried():
    tried = {name for name, _ in CHANGES + NO_CHANGE_AT_THE_START}
    assert tried == {field.name for field in dataclasses.fields(ModelConfig)}


def logits(config):
    model = build_model(config, vocab_size=16)

    @jax.jit  # one program: op by op, each would compile
    def compute(key):
        variables = model.init(key, TOKENS)
        # Larger than at the start, so that no branch is lost in rounding.
        params = jax.tree.map(lambda x: 4 * x, variables["params"])
        if config.learn_gamma:
            for room in ("attention", "mlp"):
                for name, matrix in params["layers"][room].items():
                    matrix["gamma"] = variables["params"]["layers"][room][name]["gamma"]
        return model.apply({**variables, "params": params}, TOKENS)

    return compute(jax.random.key(0))


@pytest.fixture(scope="module")
def base():
    return logits(BASE)


@pytest.mark.parametrize("field, value", CHANGES)
def test_an_option_changes_the_output(base, field, value):
    changed = logits(dataclasses.replace(BASE, **{field: value}))
    assert not np.allclose(base, changed, rtol=1e-4, atol=1e-6)


def test_channels_random_and_largest_are_not_the_same(base):
    kinds = [
        logits(dataclasses.replace(BASE, channels=k)) for k in ("random", "largest")
    ]
    assert not np.allclose(*kinds, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field, value", NO_CHANGE_AT_THE_START)
def test_an_option_that_changes_no_output_at_the_start(base, field, value):
    config = dataclasses.replace(BASE, **{field: value})
    np.testing.assert_allclose(logits(config), base, rtol=1e-6)


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("product", "mosaic_tpu", "not the TPU kernel: the device is a cpu"),
        ("product", "mosaic_gpu", "bfloat16, not float32"),
        ("attention", "cudnn", "cuDNN attention needs a GPU"),
        ("attention", "splash", "splash attention needs a TPU"),
    ],
)
def test_a_model_asks_for_the_kernels_that_it_is_told(field, value, reason, caplog):
    config = dataclasses.replace(BASE, **{field: value})
    model = build_model(config, vocab_size=16)
    placed = place_model(model, config=config, mesh=make_mesh("data:1"))
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(placed.init, jax.random.key(0), TOKENS)
    assert reason in caplog.text


def test_a_model_on_a_cpu_attends_in_blocks():
    model = build_model(BASE, vocab_size=16)
    placed = place_model(model, config=BASE, mesh=make_mesh("data:1"))
    assert placed.attend is blocked_attention


def device(kind, platform="gpu", **facts):
    return SimpleNamespace(platform=platform, device_kind=kind, **facts)


H100 = device("NVIDIA H100 80GB HBM3", compute_capability="9.0")
TPU = device("TPU v5 lite", "tpu")


@pytest.mark.parametrize(
    "where, values, length, chosen",
    [
        (H100, {"dtype": "bfloat16"}, 256, "cudnn"),
        (H100, {"dtype": "float32"}, 256, "xla"),
        (H100, {"dtype": "bfloat16"}, 255, "xla"),
        (H100, {"dtype": "bfloat16", "d_model": 24}, 256, "xla"),  # 12 a head
        (H100, {"dtype": "bfloat16", "attention": "xla"}, 256, "xla"),
        (H100, {"dtype": "bfloat16"}, None, "xla"),
        (
            device("Tesla T4", compute_capability="7.5"),
            {"dtype": "bfloat16"},
            256,
            "xla",
        ),
        (
            device("NVIDIA V100", compute_capability="7.0"),
            {"dtype": "bfloat16"},
            8,
            "xla",
        ),
        (
            device("AMD MI300X", compute_capability="gfx942"),
            {"dtype": "bfloat16"},
            8,
            "xla",
        ),
        (TPU, {}, 256, "splash"),
        (TPU, {}, 200, "xla"),
        (TPU, {"attention": "cudnn"}, 256, "cudnn"),
        (device("cpu", "cpu"), {"dtype": "bfloat16"}, 256, "xla"),
    ],
)
def test_attention_is_chosen_by_what_the_devices_take(where, values, length, chosen):
    config = dataclasses.replace(
        BASE, **{"d_model": 32, "n_heads": 2, "attention": "auto", **values}
    )
    mesh = SimpleNamespace(devices=np.array([where]))
    assert choose_attention.__wrapped__(config, mesh=mesh, length=length) == chosen


def test_a_learnt_gamma_is_a_parameter_of_every_matrix():
    model = build_model(dataclasses.replace(BASE, learn_gamma=True), vocab_size=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    for matrices in (shapes["params"]["layers"][room] for room in ("attention", "mlp")):
        for parameters in matrices.values():
            assert set(parameters) == {"a", "b", "values", "gamma"}


def test_each_remat_keeps_less_than_the_one_before():
    kept = [
        activation_bytes(
            build_model(dataclasses.replace(BASE, remat=remat), vocab_size=16),
            batch_size=2,
            length=8,
        )
        for remat in ("none", "products", "bottleneck", "full")
    ]
    assert kept == sorted(set(kept), reverse=True)


@pytest.mark.parametrize("linear", ["low_rank", "cola", "sltrain"])
@pytest.mark.parametrize("field, value", [("rank", 5), ("delta", 0.5)])
def test_options_of_the_rest_of_the_family(linear, field, value):
    plain = dataclasses.replace(BASE, linear=linear)
    ours, theirs = (
        logits(config)
        for config in (plain, dataclasses.replace(plain, **{field: value}))
    )
    # SLTrain's b starts at zero: at the start its rank is in the number alone.
    matters = field == "delta" if linear == "sltrain" else field == "rank"
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-6) is not matters


@pytest.mark.parametrize(
    "linear, names",
    [
        ("dense", {"kernel"}),
        ("low_rank", {"a", "b"}),
        ("cola", {"a", "b"}),
        ("sltrain", {"a", "b", "values"}),
        ("lost", {"a", "b", "values"}),
    ],
)
def test_the_linear_family_is_one_flag(linear, names):
    model = build_model(dataclasses.replace(BASE, linear=linear), vocab_size=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    for room, matrices in {
        "attention": "q k v o", "mlp": "gate up down"
    }.items():  # fmt: skip
        for matrix in matrices.split():
            assert set(shapes["params"]["layers"][room][matrix]) == names


def test_cola_has_an_activation_between_its_factors(base):
    plain = dataclasses.replace(BASE, linear="low_rank", factors="scaled_normal")
    cola = dataclasses.replace(BASE, linear="cola")
    bare = dataclasses.replace(cola, activation="none")
    np.testing.assert_allclose(logits(plain), logits(bare), rtol=1e-5)
    assert not np.allclose(logits(cola), logits(bare), rtol=1e-3)


def everywhere(kernel, meaning, *args):
    del meaning
    return kernel(*args)


def make_gradients(monkeypatch, choose, **options):
    """A model's gradients by its parameters, with XLA's products and with kernels."""
    kernels = partial(mosaic_products, chip=V5E, choose=choose)
    monkeypatch.setitem(models.KERNELS, "mosaic_tpu", kernels)
    config = dataclasses.replace(BASE, product="mosaic_tpu", **options)
    model = build_model(config, vocab_size=16)
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS)

    def of(model):
        def loss(params):
            return jnp.sum(jnp.sin(model.apply(variables | {"params": params}, TOKENS)))

        return jax.jit(jax.grad(loss))

    placed = place_model(model, config=config, mesh=make_mesh("data:1"))
    return of(model), of(placed), variables["params"]


@pytest.mark.parametrize("linear", ["lost", "cola", "low_rank"])
def test_kernels_within_the_scan_have_the_same_gradients(linear, monkeypatch):
    # Nothing is recomputed: JAX's interpreter cannot run within `jax.checkpoint`.
    plain, by_kernels, params = make_gradients(
        monkeypatch, everywhere, linear=linear, n_layers=2
    )
    with pltpu.force_tpu_interpret_mode():
        got = by_kernels(params)
    for one, other in zip(
        jax.tree.leaves(got), jax.tree.leaves(plain(params)), strict=True
    ):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)


@pytest.mark.parametrize(
    "remat, forward_again",
    [("none", 0), ("products", 0), ("bottleneck", 3), ("full", 4)],
)
def test_kernels_that_a_remat_policy_runs_again(remat, forward_again, monkeypatch):
    """One for q, k and v, one for gate and up, one for o, and one for down, whose
    output nobody but its backward needs; as many backward."""
    plain, by_kernels, params = make_gradients(monkeypatch, on_tpu, remat=remat)

    def count(gradients):
        lowered = gradients.trace(params).lower(lowering_platforms=("tpu",))
        return lowered.as_text().count("tpu_custom_call")

    assert count(plain) == 0
    assert count(by_kernels) == 8 + forward_again


def test_fused_attention_within_the_scan_has_the_same_gradients(monkeypatch):
    interpreted = partial(splash_attention, interpret=True)
    monkeypatch.setitem(models.FUSED, "splash", interpreted)
    tokens_BT = jax.random.randint(jax.random.key(2), (2, 128), 0, 16)
    config = dataclasses.replace(BASE, linear="dense", attention="splash")
    plain = build_model(config, vocab_size=16)
    placed = place_model(plain, config=config, mesh=make_mesh("data:2"))
    variables = jax.jit(plain.init)(jax.random.key(0), tokens_BT)

    def gradients(model):
        def loss(params):
            logits = model.apply(variables | {"params": params}, tokens_BT)
            return jnp.sum(jnp.sin(logits))

        return jax.jit(jax.grad(loss))

    by_kernels = gradients(placed).trace(variables["params"])
    assert "name=splash_mha_dkv" in str(by_kernels.jaxpr)
    for one, other in zip(
        jax.tree.leaves(gradients(placed)(variables["params"])),
        jax.tree.leaves(gradients(plain)(variables["params"])),
        strict=True,
    ):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)


def test_gradients_reach_the_embeddings_without_all_rows():
    """XLA alone gathers all rows on every device if two axes share them."""
    config = dataclasses.replace(BASE, d_model=64)
    model = build_model(config, vocab_size=4096)
    mesh = make_mesh("data:4,fsdp:2")
    placed = place_model(model, config=config, mesh=mesh)
    by_features = NamedSharding(mesh, P(None, "fsdp"))
    by_rows = NamedSharding(mesh, P(("data", "fsdp")))
    table = jax.ShapeDtypeStruct((4096, 64), jnp.float32, sharding=by_features)
    tokens = jax.ShapeDtypeStruct((8, 256), jnp.int32, sharding=by_rows)

    def gathers_all_rows(constrain):
        def loss(table_VD, tokens_BT):
            return (placed.constrain(constrain(table_VD[tokens_BT])) ** 3).sum()

        step = jax.jit(jax.grad(loss), out_shardings=by_features)
        return "f32[8,256,32]" in step.lower(table, tokens).compile().as_text()

    assert gathers_all_rows(lambda x_BTD: x_BTD)
    assert not gathers_all_rows(placed.constrain_embedded)
