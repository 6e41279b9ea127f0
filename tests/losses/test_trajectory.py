"""Trajectory losses against scipy and optax, their gradient, and the top-k bound."""

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import rel_entr, softmax

from lostjax.losses import (
    TopOutputs,
    compress_outputs,
    compressed_trajectory_loss,
    trajectory_loss,
)

V = 13
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])


@pytest.fixture(scope="module")
def pair():
    """Present and past logits (3, 4, 13), in nats of a confident model."""
    now, past = 6 * jax.random.normal(jax.random.key(0), (2, 3, 4, V))
    return now, past


@partial(jax.jit, static_argnames=("k", "temperature", "dtype"))
def compressed(now, past, *, k, temperature=5.0, dtype=jnp.float32):
    kept = compress_outputs(past, k=k, temperature=temperature, dtype=dtype)
    return compressed_trajectory_loss(now, kept, temperature=temperature)


whole_loss = jax.jit(trajectory_loss, static_argnames="temperature")
"""In one program: op by op, each operation would compile."""


@TEMPERATURES
def test_the_loss_is_scipys_relative_entropy_times_t_squared(pair, temperature):
    now, past = (np.asarray(z, np.float64) for z in pair)
    p, q = softmax(past / temperature, axis=-1), softmax(now / temperature, axis=-1)
    expected = temperature**2 * rel_entr(p, q).sum(-1)
    got = trajectory_loss(*pair, temperature=temperature)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_at_temperature_one_it_is_optaxs_divergence(pair):
    now, past = pair
    expected = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(now), jax.nn.log_softmax(past)
    )
    got = trajectory_loss(now, past, temperature=1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@TEMPERATURES
def test_the_gradient_is_t_times_the_difference_of_probabilities(pair, temperature):
    def total(now, past):
        return trajectory_loss(now, past, temperature=temperature).sum()

    now, past = jax.jit(jax.grad(total, argnums=(0, 1)))(*pair)
    p, q = (softmax(np.asarray(z) / temperature, axis=-1) for z in pair[::-1])
    np.testing.assert_allclose(now, temperature * (q - p), atol=2e-6)
    np.testing.assert_array_equal(past, np.zeros_like(past))


def test_shifted_logits_are_the_same_outputs(pair):
    now, past = pair
    np.testing.assert_allclose(trajectory_loss(past + 3, past), 0, atol=1e-4)
    np.testing.assert_array_equal(trajectory_loss(past, past), 0)
    assert (trajectory_loss(now, past) > 0.1).all()


def test_bfloat16_logits_are_computed_in_float32(pair):
    low = [z.astype(jnp.bfloat16) for z in pair]
    exact = trajectory_loss(*(z.astype(jnp.float32) for z in low))
    got = trajectory_loss(*low)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("loss", [trajectory_loss, partial(compressed, k=V - 3)])
def test_classes_that_the_past_rules_out_add_nothing(pair, loss):
    now, past = (z.at[..., -3:].set(-jnp.inf) for z in pair)
    expected = trajectory_loss(pair[0][..., :-3], pair[1][..., :-3])
    np.testing.assert_allclose(loss(now, past), expected, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda z: loss(z, past).sum()))(now)
    assert np.isfinite(gradient).all()


@hypothesis.given(
    st.lists(
        st.tuples(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32)),
        min_size=V,
        max_size=V,
    ),
    st.sampled_from([1, 2, 5, V - 1]),
    st.sampled_from([1.0, 5.0]),
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_top_k_is_a_lower_bound(pairs, k, temperature):
    now, past = np.array(pairs, np.float32).T
    whole = whole_loss(now, past, temperature=temperature)
    bound = compressed(now, past, k=k, temperature=temperature)
    assert -1e-4 <= bound <= whole * (1 + 1e-5) + 1e-4


@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_top_k_is_scipys_relative_entropy_of_k_classes_and_the_rest(pair, k):
    now, past = (softmax(np.asarray(z, np.float64) / 5, axis=-1) for z in pair)
    order = np.argsort(-past, axis=-1)
    now, past = (np.take_along_axis(x, order, axis=-1) for x in (now, past))
    p, q = (
        np.concatenate([x[..., :k], x[..., k:].sum(-1, keepdims=True)], axis=-1)
        for x in (past, now)
    )
    got = compressed(*pair, k=k)
    np.testing.assert_allclose(got, 25 * rel_entr(p, q).sum(-1), rtol=1e-4)


def test_top_k_of_all_classes_is_the_whole_loss_and_gradient(pair):
    now, past = pair
    np.testing.assert_allclose(
        compressed(now, past, k=V), trajectory_loss(now, past), rtol=1e-5
    )
    whole = jax.jit(jax.grad(lambda z: trajectory_loss(z, past).sum()))(now)
    ours = jax.jit(jax.grad(lambda z: compressed(z, past, k=V).sum()))(now)
    np.testing.assert_allclose(ours, whole, atol=1e-5)


def test_the_present_rest_is_exact_where_it_is_tiny():
    now = np.array([60.0, 0, 0, 1], np.float32)
    # Rest and kept classes have one ratio inside each bucket: nothing is lost.
    past = np.log(np.array([0.7, *[0.3 / (2 + np.e)] * 2, 1], np.float32))
    past[3] = past[1] + 1
    whole = whole_loss(now, past, temperature=1.0)
    bound = compressed(now, past, k=1, temperature=1.0)
    np.testing.assert_allclose(bound, whole, rtol=1e-5)
    assert whole > 10
    slope = jax.grad(lambda z: compressed(z, past, k=1, temperature=1.0))
    gradient = jax.jit(slope)(now)
    np.testing.assert_allclose(gradient[0], 0.3, rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU programs")
def test_the_vocabulary_is_not_sorted():
    """XLA finds top_k in a sort whose slices are its own; any other keeps the sort."""
    logits = jax.ShapeDtypeStruct((4, 1024), jnp.float32)
    program = jax.jit(partial(compress_outputs, k=32)).lower(logits).compile().as_text()
    assert "TopK" in program and " sort(" not in program


def test_equal_probabilities_are_counted_once():
    keep = jax.jit(partial(compress_outputs, k=3, dtype=jnp.float32))
    kept = keep(np.zeros((2, 7), np.float32))
    np.testing.assert_array_equal(kept.ids, [[0, 1, 2]] * 2)
    np.testing.assert_allclose(np.exp(kept.log_probs), 1 / 7, rtol=1e-6)
    np.testing.assert_allclose(np.exp(kept.log_rest), 4 / 7, rtol=1e-6)


def test_float16_storage_moves_the_loss_by_little(pair):
    now, past = pair
    exact = compressed(now, past, k=4)
    stored = compressed(now, past, k=4, dtype=jnp.float16)
    assert (stored != exact).any()
    np.testing.assert_allclose(stored, exact, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(
        compressed(past, past, k=4, dtype=jnp.float16), 0, atol=1e-4
    )


def test_top_32_of_a_vocabulary_take_650_times_less_than_its_logits():
    def count_bytes(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    logits = jax.ShapeDtypeStruct((32000,), jnp.float32)
    kept = jax.eval_shape(lambda z: compress_outputs(z, k=32), logits)
    assert count_bytes(kept) == 32 * 6 + 4 == 196
    assert count_bytes(logits) / count_bytes(kept) == pytest.approx(653, abs=1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_wrong_temperature_is_named(pair, temperature):
    for call in (
        lambda: trajectory_loss(*pair, temperature=temperature),
        lambda: compress_outputs(pair[1], k=2, temperature=temperature),
        lambda: compressed_trajectory_loss(
            pair[0], compress_outputs(pair[1], k=2), temperature=temperature
        ),
    ):
        with pytest.raises(ValueError, match=f"temperature={temperature}"):
            call()


@pytest.mark.parametrize("k", [0, -1, V + 1])
def test_a_wrong_k_is_named(pair, k):
    with pytest.raises(ValueError, match=rf"k={k}: must lie in \[1, {V}\]"):
        compress_outputs(pair[0], k=k)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="past_logits"):
        unchecked(trajectory_loss)(jnp.zeros((2, 5)), jnp.zeros((1, 5)))
    kept = TopOutputs(jnp.zeros((3, 2), int), jnp.zeros((3, 2)), jnp.zeros(3))
    with pytest.raises(ValueError, match="past.ids"):
        unchecked(compressed_trajectory_loss)(jnp.zeros((2, 5)), kept)


def unchecked(function):
    """Take off the type checks that tests put around a function."""
    return function.__wrapped__
