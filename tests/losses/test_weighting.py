"""Dynamic reweighting: a NumPy oracle, the bounds that it promises, and its edges."""

from functools import partial

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import config

from lostjax.losses import (
    extremes,
    kl_dro_weights,
    lin_upper,
    quadratic,
    sample_weights,
    sequence_means,
    temperature_schedule,
    upper,
)

B = 8
SHAPES = {
    # ours: the same in NumPy, over float64
    lin_upper: lambda h: np.where(h < 0, 1 + h, 1.0),
    quadratic: lambda h: (1 - h) * (1 + h),
    extremes: lambda h: np.where(h < 0, -h, h),
    upper: lambda h: 0.5 + 0.5 * h,
}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda f: f.__name__)
losses = hnp.arrays(np.float32, B, elements=st.floats(0, 20, width=32))
temperatures = st.floats(1 / 16, 128, width=32)
quick = hypothesis.settings(deadline=None, max_examples=40)


@partial(jax.jit, static_argnames="shape")
def jitted(losses_B, temperature, prior_B=None, *, shape):
    return sample_weights(
        losses_B, shape=shape, temperature=temperature, prior_B=prior_B
    )


def oracle(losses_B, temperature, prior_B, shape):
    """Exponentials of float64 scores of the examples that count, normalised."""
    values = np.asarray(losses_B, np.float64)[prior_B > 0]
    low, high = values.min(), values.max()
    h = (2 * values - high - low) / max(high - low, 1e-6)
    grown = prior_B[prior_B > 0] * np.exp(SHAPES[shape](h) / temperature)
    weights = np.zeros(len(prior_B))
    weights[prior_B > 0] = grown / grown.sum()
    return weights


@every_shape
@hypothesis.given(
    losses, temperatures, hnp.arrays(np.float32, B, elements=st.integers(0, 9))
)
@quick
def test_weights_equal_numpy(shape, losses_B, temperature, prior_B):
    hypothesis.assume(prior_B.any())
    got = jitted(losses_B, temperature, prior_B, shape=shape)
    expected = oracle(losses_B, temperature, prior_B, shape)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-12)


@every_shape
@hypothesis.given(losses, temperatures)
@quick
def test_weights_sum_to_one_and_none_exceeds_its_bound(shape, losses_B, temperature):
    weights = np.asarray(jitted(losses_B, temperature, shape=shape))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    assert (weights >= 0).all()
    with np.errstate(over="ignore", divide="ignore"):
        bound = np.exp(1 / np.float64(temperature))
    assert weights.max() <= weights.min() * bound * (1 + 1e-4) + 1e-37


@every_shape
@hypothesis.given(losses, temperatures, st.permutations(range(B)))
@quick
def test_weights_go_with_their_examples(shape, losses_B, temperature, order):
    weights = jitted(losses_B, temperature, shape=shape)
    moved = jitted(losses_B[list(order)], temperature, shape=shape)
    np.testing.assert_allclose(moved, weights[jnp.array(order)], rtol=1e-5)


@hypothesis.given(losses, temperatures)
@quick
def test_the_harder_never_counts_less(losses_B, temperature):
    order = np.argsort(losses_B)
    for shape in (lin_upper, upper):
        weights = np.asarray(jitted(losses_B, temperature, shape=shape))[order]
        assert (np.diff(weights) >= -1e-7).all()
    middle = (losses_B.max() + losses_B.min()) / 2
    outwards = np.argsort(np.abs(losses_B - middle))
    for shape, sign in ((quadratic, -1), (extremes, 1)):
        weights = np.asarray(jitted(losses_B, temperature, shape=shape))[outwards]
        assert (sign * np.diff(weights) >= -1e-5).all()


def test_lin_upper_lowers_the_easy_half_only():
    weights = sample_weights(jnp.array([0.0, 1.0, 2.0, 3.0, 4.0]), temperature=0.5)
    np.testing.assert_allclose(weights[0] * np.exp(2.0), weights[4], rtol=1e-6)
    np.testing.assert_allclose(weights[1] * np.e, weights[4], rtol=1e-6)
    np.testing.assert_allclose(weights[2:], weights[4], rtol=1e-6)


@every_shape
def test_infinite_temperature_gives_back_the_prior_exactly(shape):
    losses_B = jax.random.normal(jax.random.key(0), (B,))
    uniform = jitted(losses_B, jnp.inf, shape=shape)
    np.testing.assert_array_equal(uniform, np.full(B, 1 / B, np.float32))
    prior_B = np.arange(B, dtype=np.float32)
    weights = jitted(losses_B, jnp.inf, prior_B, shape=shape)
    np.testing.assert_allclose(weights, prior_B / prior_B.sum(), rtol=1e-7)


@every_shape
def test_tiny_temperature_is_finite_and_takes_the_best_alone(shape):
    weights = sample_weights(jnp.array([1.0, 2.5, 4.0]), shape=shape, temperature=1e-37)
    best = np.isclose(SHAPES[shape](np.array([-1, 0, 1])), 1)
    np.testing.assert_allclose(weights, best / best.sum(), rtol=1e-6)


@every_shape
def test_equal_losses_are_uniform(shape):
    weights = jitted(jnp.full(B, 7.3), 0.1, shape=shape)
    np.testing.assert_array_equal(weights, np.full(B, 1 / B, np.float32))


def test_a_single_example_has_all_the_weight():
    np.testing.assert_array_equal(sample_weights(jnp.array([3.0])), [1.0])


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf, 1e30])
def test_an_example_at_zero_stays_out(value):
    weights = sample_weights(
        jnp.array([1.0, value, 3.0]), prior_B=jnp.array([1.0, 0.0, 1.0])
    )
    alone = sample_weights(jnp.array([1.0, 3.0]))
    np.testing.assert_array_equal(weights, [alone[0], 0.0, alone[1]])


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@every_shape
def test_a_loss_that_diverged_shows(shape, value):
    losses_B = jnp.array([1.0, value, 3.0])
    assert np.isnan(sample_weights(losses_B, shape=shape)).all()


def test_nothing_that_counts_gives_nothing():
    weights = sample_weights(jnp.arange(3.0), prior_B=jnp.zeros(3))
    np.testing.assert_array_equal(weights, np.zeros(3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), jnp.array(0.0)])
def test_a_temperature_that_cannot_be_is_named(temperature):
    with pytest.raises(ValueError, match="temperature="):
        sample_weights(jnp.arange(3.0), temperature=temperature)
    with pytest.raises(ValueError, match="temperature="):
        temperature_schedule(float(temperature), uniform_steps=0)


def test_no_example_and_negative_warm_up_are_named():
    with pytest.raises(ValueError, match="losses_B"):
        sample_weights(jnp.zeros(0))
    with pytest.raises(ValueError, match="uniform_steps=-1"):
        temperature_schedule(1.0, uniform_steps=-1)


def test_warm_up_is_uniform_and_then_the_temperature():
    schedule = temperature_schedule(0.4, uniform_steps=3)
    np.testing.assert_allclose(
        [schedule(t) for t in range(5)], [np.inf, np.inf, np.inf, 0.4, 0.4]
    )
    losses_B = jnp.arange(4.0)
    step = jax.jit(lambda t: sample_weights(losses_B, temperature=schedule(t)))
    np.testing.assert_array_equal(step(2), np.full(4, 0.25))
    np.testing.assert_allclose(step(3), sample_weights(losses_B, temperature=0.4))


@every_shape
def test_weights_of_a_sharded_batch_are_those_of_the_whole(shape):
    losses_B = 3 + jax.random.normal(jax.random.key(1), (64,))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded_B = jax.device_put(losses_B, NamedSharding(mesh, P("data")))
    got = jitted(sharded_B, 0.4, shape=shape)
    np.testing.assert_allclose(got, jitted(losses_B, 0.4, shape=shape), rtol=1e-6)


def test_no_gradient_flows_through_the_weights():
    losses_B = jnp.array([1.0, 2.0, 5.0])
    gradient = jax.grad(lambda x: jnp.sum(sample_weights(x) * x))(losses_B)
    np.testing.assert_allclose(gradient, sample_weights(losses_B), rtol=1e-6)
    through_prior = jax.grad(lambda p: sample_weights(losses_B, prior_B=p)[0])
    np.testing.assert_array_equal(through_prior(jnp.ones(3)), np.zeros(3))


def test_low_precision_losses_are_weighed_in_float32():
    losses_B = jnp.array([1.0, 2.0, 5.0], jnp.bfloat16)
    weights = sample_weights(losses_B)
    assert weights.dtype == jnp.float32
    np.testing.assert_array_equal(weights, sample_weights(losses_B.astype("float32")))


def test_sequence_means_leave_out_what_has_no_weight():
    values_BT = jnp.array([[1.0, 3.0, jnp.nan], [4.0, 4.0, 7.0], [jnp.inf, 1.0, 1.0]])
    weights_BT = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(sequence_means(values_BT, weights_BT), [2.0, 5.5, 0.0])


@pytest.fixture
def unchecked_types():
    """Switch off the tests' own check of types, which users do not have."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses_B": jnp.ones((2, 3))}, r"\(2, 3\): must be .*losses.sequence_means"),
        ({"losses_B": jnp.ones(())}, r"losses_B has shape \(\): must be \(B,\)"),
        ({"shape": "lin_upper"}, "shape='lin_upper': .*; use shape=losses.lin_upper"),
        ({"shape": "hard"}, "shape='hard': must be a function of h$"),
        ({"prior_B": jnp.ones(4)}, r"prior_B: shape \(4,\), must be \(3,\)"),
    ],
)
def test_arguments_of_another_kind_are_named(options, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        sample_weights(**({"losses_B": jnp.ones(3)} | options))


def test_losses_of_tokens_are_refused_by_kl_dro_too(unchecked_types):
    with pytest.raises(ValueError, match="one loss per example; .*sequence_means"):
        kl_dro_weights(jnp.ones((2, 3)), temperature=1.0)
