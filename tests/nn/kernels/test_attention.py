"""Attention by kernels means what XLA's means, alone and on a mesh."""

import logging
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from lostjax.nn import Dense, Transformer, Ungrouped, causal_bias
from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import plain_attention
from lostjax.nn.kernels import attention as fused_attention
from lostjax.nn.kernels.attention import (
    ShardedAttention,
    cudnn_attention,
    splash_attention,
)
from lostjax.nn.kernels.kernel_form import log_once

B, H = 4, 2
interpreted = partial(splash_attention, interpret=True)


def draw(length, *, d_head=64, dtype=jnp.float32, packed=True):
    """Draw queries, keys, values, what is seen, and what flows back."""
    rng = np.random.default_rng(0)
    shape = (B, length, H, d_head)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]
    segments_BT = None
    if packed:  # documents of random lengths, then padding
        starts_BT = rng.random((B, length)) < 0.02
        segments_BT = 1 + np.cumsum(starts_BT, axis=1)
        segments_BT[:, -7:] = 0
        segments_BT = jnp.asarray(segments_BT, jnp.int32)
    seen = Seen(causal_bias(length, segments_BT=segments_BT), segments_BT)
    return (*arrays[:3], seen, arrays[3])


def train(attend):
    """Make what queries gather and all gradients a function of everything."""

    def run(q, k, v, seen, g):
        y, pull = jax.vjp(lambda q, k, v: attend(q, k, v, seen), q, k, v)
        return y, *pull(g)

    return jax.jit(run)


def also(*values):
    """A case like one beside it: `make slow` and `make kernels` run it."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "length, d_head, packed",
    [
        (128, 64, True),
        (128, 128, False),
        (768, 64, True),  # in blocks of several sizes
        also(128, 64, False),
        also(128, 128, True),
        also(768, 64, False),
        also(768, 128, True),
        also(768, 128, False),
    ],
)
def test_splash_attention_is_attention(length, d_head, packed):
    given = draw(length, d_head=d_head, packed=packed)
    for ours, meant in zip(
        train(interpreted)(*given), train(plain_attention)(*given), strict=True
    ):
        np.testing.assert_allclose(ours, meant, atol=2e-5, rtol=2e-5)


def test_splash_attention_in_bfloat16_is_as_near_as_its_type():
    given = draw(128, dtype=jnp.bfloat16)
    exact = [each.astype(jnp.float32) for each in (*given[:3], given[4])]
    meant = train(plain_attention)(*exact[:3], given[3], exact[3])
    for ours, each in zip(train(interpreted)(*given), meant, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), each, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "sizes, packed",
    [
        ((2, 1, 2), True),
        ((2, 1, 2), False),
        also((2, 2, 1), True),
        also((2, 2, 1), False),
    ],
)
def test_on_a_mesh_devices_attend_to_their_rows_and_heads(sizes, packed):
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * 3)
    given = draw(128, packed=packed)
    attend = ShardedAttention(interpreted, mesh, ("data", "fsdp"), "tensor")
    for ours, meant in zip(
        train(attend)(*given), train(plain_attention)(*given), strict=True
    ):
        np.testing.assert_allclose(ours, meant, atol=2e-5, rtol=2e-5)


@pytest.fixture
def asked_of_cudnn(monkeypatch):
    """Let this machine pass for a GPU whose cuDNN is XLA; give what it was asked."""
    asked, attend = [], jax.nn.dot_product_attention

    def instead(q, k, v, *, implementation=None, **options):
        if implementation is not None:
            asked.append(implementation)
        return attend(q, k, v, **options)

    monkeypatch.setattr(fused_attention, "_platform", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    return asked


@pytest.mark.parametrize("packed", [True, False])
def test_cudnn_is_asked_for_what_attention_means(packed, asked_of_cudnn):
    given = draw(64, dtype=jnp.bfloat16, packed=packed)
    ours = train(cudnn_attention)(*given)
    assert asked_of_cudnn == ["cudnn"]
    for each, meant in zip(ours, train(plain_attention)(*given), strict=True):
        assert each.dtype == jnp.bfloat16
        each, meant = each.astype(jnp.float32), meant.astype(jnp.float32)
        np.testing.assert_allclose(each, meant, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"length": 64}, "not float32"),
        ({"length": 65, "dtype": jnp.bfloat16}, "an even number of tokens, not 65"),
        ({"length": 64, "d_head": 20, "dtype": jnp.bfloat16}, "up to 128, not 20"),
    ],
)
def test_what_cudnn_cannot_do_is_xlas(case, reason, asked_of_cudnn, caplog):
    assert_falls_back(cudnn_attention, draw(**case), reason, caplog)
    assert not asked_of_cudnn


def test_without_cudnn_attention_is_xlas(monkeypatch, caplog):
    monkeypatch.setattr(fused_attention, "_platform", lambda: "gpu")
    attend = jax.nn.dot_product_attention

    def instead(*args, implementation=None, **options):
        if implementation is not None:
            raise RuntimeError("cuDNN is not detected.")
        return attend(*args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    given, reason = draw(64, dtype=jnp.bfloat16), r"install 'jax\[cuda12\]'"
    assert_falls_back(cudnn_attention, given, reason, caplog)


def assert_falls_back(attend, given, reason, caplog):
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        ours = train(attend)(*given)
    assert re.search(reason, caplog.text)
    for each, meant in zip(ours, train(plain_attention)(*given), strict=True):
        np.testing.assert_array_equal(each, meant)


def on_three_devices(*sizes):
    def attend(q, k, v, seen):
        axes = ("data", "tensor")
        mesh = jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * 2)
        return ShardedAttention(interpreted, mesh, ("data",), "tensor")(q, k, v, seen)

    return attend


@pytest.mark.parametrize(
    ("attend", "length", "reason"),
    [
        (cudnn_attention, 128, "cuDNN attention needs a GPU"),
        (splash_attention, 128, "splash attention needs a TPU"),
        (interpreted, 96, "rows of a multiple of 128 tokens, not 96"),
        (on_three_devices(3, 1), 128, "4 rows of 2 heads do not split over 3 x 1"),
        (on_three_devices(1, 3), 128, "4 rows of 2 heads do not split over 1 x 3"),
    ],
)
def test_what_cannot_be_had_is_xlas_and_the_log_says_why(
    attend, length, reason, caplog
):
    assert_falls_back(attend, draw(length), reason, caplog)


def test_a_mesh_must_have_the_axes():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="axis 'tensor' is not a mesh axis"):
        ShardedAttention(interpreted, mesh, ("data",), "tensor")


def test_a_model_attends_by_what_it_is_given_but_for_its_cache():
    plain = Transformer(
        vocab_size=11,
        d_model=16,
        n_layers=2,
        n_heads=2,
        d_hidden=24,
        linear=Ungrouped(Dense),
    )
    fused = plain.clone(attend=lambda q, k, v, seen: 2 * plain_attention(q, k, v, seen))
    tokens_BT = jnp.arange(10).reshape(2, 5)
    params = jax.jit(plain.init)(jax.random.key(0), tokens_BT)
    ours, meant = (jax.jit(each.apply)(params, tokens_BT) for each in (fused, plain))
    assert np.max(np.abs(np.subtract(ours, meant))) > 1e-3
    cached = [each.clone(cache_length=5) for each in (plain, fused)]
    ours, meant = (
        jax.jit(partial(model.apply, mutable=["cache"]))(params, tokens_BT)[0]
        for model in cached
    )
    np.testing.assert_array_equal(ours, meant)
