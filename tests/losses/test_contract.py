"""What the step expects of a loss, of weights and of a reduction, for each of ours.

One row a function: to add one, add a row. `test_every_public_name_has_a_row` fails
until it has one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses

B, T, V = 3, 4, 7
TYPES_ONLY = {"Shape"}


class Loss(NamedTuple):
    """A value per example of logits (B, T, V), targets given."""

    of: Callable[..., jax.Array]
    """From logits and targets to values."""
    covers: tuple[str, ...]


class Weights(NamedTuple):
    """A weight per example of losses (B,) and a prior."""

    of: Callable[..., jax.Array]
    """From losses and a prior to weights that sum to one."""
    covers: tuple[str, ...]


class Reduction(NamedTuple):
    """One number of values (B, T) and weights, or one a row."""

    of: Callable[..., jax.Array]
    covers: tuple[str, ...]
    rows: bool = False
    """Whether it reduces each row alone."""


def past_of(logits, targets):
    """Logits of another model: of the same rows, and of no row beside them."""
    return jnp.cos(3 * logits.astype(jnp.float32)) + jax.nn.one_hot(targets, V)


def against_the_past(logits, targets):
    return losses.trajectory_loss(logits, past_of(logits, targets))


def against_the_top(logits, targets):
    past = losses.compress_outputs(past_of(logits, targets), k=2)
    assert isinstance(past, losses.TopOutputs)
    return losses.compressed_trajectory_loss(logits, past)


LOSSES = {
    "next_token": Loss(losses.next_token_loss, ("next_token_loss",)),
    "log_partition": Loss(
        lambda logits, targets: losses.log_partition_penalty(logits),
        ("log_partition_penalty",),
    ),
    "smoothing": Loss(losses.smoothing_penalty, ("smoothing_penalty",)),
    "trajectory": Loss(against_the_past, ("trajectory_loss",)),
    "compressed trajectory": Loss(
        against_the_top,
        ("compressed_trajectory_loss", "compress_outputs", "TopOutputs"),
    ),
}


def weights_of(shape, *, temperature=0.4):
    return lambda values, prior: losses.sample_weights(
        values, shape=shape, temperature=temperature, prior_B=prior
    )


WEIGHTS = {
    name: Weights(weights_of(getattr(losses, name)), ("sample_weights", name))
    for name in ("lin_upper", "quadratic", "extremes", "upper")
} | {
    "after warmup": Weights(
        lambda values, prior: losses.sample_weights(
            values,
            temperature=losses.temperature_schedule(0.4, uniform_steps=5)(5),
            prior_B=prior,
        ),
        ("temperature_schedule",),
    )
}
REDUCTIONS = {
    "mean": Reduction(losses.weighted_mean, ("weighted_mean",)),
    "sums": Reduction(lambda v, w: losses.weighted_sums(v, w)[0], ("weighted_sums",)),
    "rows": Reduction(losses.sequence_means, ("sequence_means",), rows=True),
}
every_loss = pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)
every_weights = pytest.mark.parametrize("row", WEIGHTS.values(), ids=WEIGHTS)
every_reduction = pytest.mark.parametrize("row", REDUCTIONS.values(), ids=REDUCTIONS)


def logits_and_targets(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(4 * rng.normal(size=(B, T, V)), dtype)
    return logits, jnp.asarray(rng.integers(0, V, (B, T)))


def losses_and_prior():
    return jnp.array([0.5, 3.0, 1.0, 2.5, 0.1]), jnp.array([1.0, 2.0, 0.0, 1.0, 3.0])


def values_and_weights():
    rng = np.random.default_rng(1)
    weights = rng.uniform(size=(B, T)).astype(np.float32)
    weights[1, 2] = 0
    return jnp.asarray(rng.normal(size=(B, T)), jnp.float32), jnp.asarray(weights)


def close(got: Any, expected: Any) -> None:
    """Equal except for what two programs round differently."""
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_every_public_name_has_a_row():
    rows = [*LOSSES.values(), *WEIGHTS.values(), *REDUCTIONS.values()]
    assert {name for row in rows for name in row.covers} == (
        set(losses.__all__) - TYPES_ONLY
    )


@every_loss
def test_a_loss_has_a_value_per_example_and_jit_and_vmap_change_nothing(row):
    logits, targets = logits_and_targets()
    values = row.of(logits, targets)
    assert values.shape == targets.shape and values.dtype == jnp.float32
    close(jax.jit(row.of)(logits, targets), values)
    close(jax.vmap(row.of)(logits, targets), values)


@every_loss
def test_a_loss_of_bfloat16_is_computed_in_float32(row):
    low, targets = logits_and_targets(jnp.bfloat16)
    values = row.of(low, targets)
    assert values.dtype == jnp.float32
    close(values, row.of(low.astype(jnp.float32), targets))
    gradient = jax.grad(lambda logits: row.of(logits, targets).sum())(low)
    assert gradient.dtype == jnp.bfloat16


@every_loss
def test_a_weight_of_zero_removes_an_example_from_a_loss(row):
    logits, targets = logits_and_targets()
    weights = jnp.ones((B, T)).at[1].set(0.0)

    def mean(logits, targets, weights):
        return losses.weighted_mean(row.of(logits, targets), weights)

    rest = jnp.array([0, 2])
    without = mean(logits[rest], targets[rest], weights[rest])
    close(mean(logits, targets, weights), without)
    broken = logits.at[1].set(jnp.nan)
    close(mean(broken, targets, weights), without)
    gradient = jax.grad(mean)(logits, targets, weights)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.any(gradient[0] != 0) and np.any(gradient[2] != 0)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_loss_has_a_finite_gradient_at_the_edges(row, dtype):
    edges = [
        jnp.zeros(V),
        jnp.full(V, -1e4),
        jnp.zeros(V).at[0].set(1e4),
        jnp.zeros(V).at[1].set(-1e4),
    ]
    logits = jnp.stack(edges).astype(dtype)[None]
    targets = jnp.ones((1, len(edges)), jnp.int32)
    values, pull = jax.vjp(lambda logits: row.of(logits, targets), logits)
    (gradient,) = pull(jnp.ones_like(values))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))


@every_weights
def test_weights_sum_to_one_and_jit_and_vmap_change_nothing(row):
    values, prior = losses_and_prior()
    weights = row.of(values, prior)
    assert weights.shape == values.shape and weights.dtype == jnp.float32
    close(weights.sum(), 1)
    assert np.ptp(weights[prior > 0] / prior[prior > 0]) > 0.05, "not uniform"
    close(jax.jit(row.of)(values, prior), weights)
    pair = jnp.stack([values, values[::-1]]), jnp.stack([prior, prior[::-1]])
    close(jax.vmap(row.of)(*pair), jnp.stack([weights, weights[::-1]]))


@every_weights
def test_weights_of_bfloat16_are_computed_in_float32(row):
    values, prior = losses_and_prior()
    low = values.astype(jnp.bfloat16)
    close(row.of(low, prior), row.of(low.astype(jnp.float32), prior))


@every_weights
def test_weights_leave_out_what_the_prior_leaves_out_and_have_no_gradient(row):
    values, prior = losses_and_prior()
    there = np.flatnonzero(prior)
    weights = row.of(values.at[2].set(1e6), prior)
    assert weights[2] == 0
    close(weights[there], row.of(values[there], prior[there]))
    gradient = jax.grad(lambda values: row.of(values, prior)[0])(values)
    np.testing.assert_array_equal(gradient, 0)


@every_weights
def test_weights_of_equal_losses_are_the_prior(row):
    _, prior = losses_and_prior()
    close(row.of(jnp.full(5, 2.0), prior), prior / prior.sum())
    np.testing.assert_array_equal(row.of(jnp.ones(5), jnp.zeros(5)), 0)


@every_reduction
def test_a_reduction_is_float32_and_jit_and_vmap_change_nothing(row):
    values, weights = values_and_weights()
    got = row.of(values.astype(jnp.bfloat16), weights.astype(jnp.bfloat16))
    assert got.dtype == jnp.float32
    got = row.of(values, weights)
    assert got.shape == ((B,) if row.rows else ())
    close(jax.jit(row.of)(values, weights), got)
    both = jnp.stack([values, 2 * values]), jnp.stack([weights, weights])
    close(jax.vmap(row.of)(*both), jnp.stack([got, 2 * got]))


@every_reduction
def test_a_weight_of_zero_removes_a_value_from_a_reduction(row):
    values, weights = values_and_weights()
    got, pull = jax.vjp(row.of, values, weights)
    broken = values.at[1, 2].set(jnp.nan)
    np.testing.assert_array_equal(row.of(broken, weights), got)
    np.testing.assert_array_equal(row.of(values.at[1, 2].add(1e6), weights), got)
    gradient, _ = pull(jnp.ones_like(got))
    assert gradient[1, 2] == 0 and np.count_nonzero(gradient) == B * T - 1


@every_reduction
def test_a_reduction_over_no_weight_is_zero_with_a_finite_gradient(row):
    values, weights = values_and_weights()
    got, pull = jax.vjp(row.of, values, jnp.zeros_like(weights))
    np.testing.assert_array_equal(got, jnp.zeros_like(got))
    assert all(np.all(np.isfinite(x)) for x in pull(jnp.ones_like(got)))
