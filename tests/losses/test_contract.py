"""What the step expects of a loss, of weights and of a reduction, for each of ours.

One row a function: to add one, add a row. `test_every_public_name_has_a_row` fails
until it has one.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses

pytestmark = pytest.mark.newest
B, T, V = 3, 4, 7
TYPES_ONLY = {"Divergence", "Shape"}
OF_SETS = {
    "breslow_survival",
    "prototypes",
    "set_cox_loss",
    "set_icnn_loss",
    "set_icnn_score",
}
"""Functions of a whole set, without weights: test_cox.py, test_metric_learning.py."""


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


class Mask(NamedTuple):
    """The examples to keep of values (B,) that are there."""

    of: Callable[..., jax.Array]
    """From values and a mask of what is there to a mask of what to keep."""
    covers: tuple[str, ...]


class Reduction(NamedTuple):
    """One number of values (B, T) and weights, or one a row.

    Losses of a whole set are of this kind.
    """

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


def by_set(of):
    """Apply a loss of rows (B, D) to each of the sets that leading axes hold."""

    def run(logits, targets):
        if logits.ndim > 2:
            return jax.vmap(run)(logits, targets)
        return of(logits, targets)

    return run


def contrast(logits, targets):
    other = past_of(logits, targets)
    return losses.info_nce_loss(logits, other, temperature=0.5, hard_share=0.5)


def against_text(logits, targets):
    """Weigh tokens by how surprised another model is at them."""
    weights = losses.surprisal_weights(past_of(logits, targets), targets)
    return weights * losses.next_token_loss(logits, targets)


def of_times(logits, targets):
    """The likelihood of times, every second one of which is censored."""
    times = losses.discretize_times(
        targets + 0.5, events=targets % 2, edges=np.arange(V + 1)
    )
    assert isinstance(times, losses.DiscreteTimes)
    return losses.hazard_loss(logits, times.bins, events=times.events)


def of_survival(logits, targets):
    curve = losses.survival_curve(logits)
    return jnp.take_along_axis(curve, targets[..., None], axis=-1)[..., 0]


def of_sums(loss, **options):
    """A spherical loss of the numbers that it reads."""

    def run(logits, targets):
        sums = losses.sum_logits(logits, targets)
        assert isinstance(sums, losses.LogitSums)
        return loss(sums, **options)

    return run


def of_distances(logits, targets):
    distances = losses.prototypical_logits(logits, jnp.eye(V))
    return losses.next_token_loss(distances, targets)


def two_answers(logits, targets):
    """Probability and log-probability of a template and of a forgotten answer."""
    one = logits[..., None, :]
    last = jnp.full(targets.shape, V - 1)
    return [
        (
            losses.mean_token_probability(one, ids[..., None]),
            -losses.next_token_loss(logits, ids),
        )
        for ids in (last, targets)
    ]


def forget_by_all(logits, targets):
    """The sum over all divergences, so that they need one program."""
    (template, _), (forgotten, _) = two_answers(logits, targets)
    return sum(
        losses.flat_loss(template, forgotten, divergence=getattr(losses, name))
        for name in DIVERGENCES
    )


def against_template(logits, targets):
    (_, template), (_, forgotten) = two_answers(logits, targets)
    return losses.direct_preference_loss(
        template,
        forgotten,
        chosen_reference_B=jnp.full(template.shape, -1.0),
        rejected_reference_B=jnp.full(template.shape, -0.1),
    )


DIVERGENCES = (
    "total_variation",
    "kl_divergence",
    "reverse_kl_divergence",
    "jensen_shannon_divergence",
    "pearson_divergence",
    "neyman_divergence",
    "squared_hellinger",
    "jeffreys_divergence",
)

LOSSES = {
    "next_token": Loss(losses.next_token_loss, ("next_token_loss",)),
    "log_partition": Loss(
        lambda logits, targets: losses.log_partition_penalty(logits),
        ("log_partition_penalty",),
    ),
    "smoothing": Loss(losses.smoothing_penalty, ("smoothing_penalty",)),
    "generalized cross entropy": Loss(
        partial(losses.generalized_cross_entropy_loss, q=0.7),
        ("generalized_cross_entropy_loss",),
    ),
    "trajectory": Loss(against_the_past, ("trajectory_loss",)),
    "compressed trajectory": Loss(
        against_the_top,
        ("compressed_trajectory_loss", "compress_outputs", "TopOutputs"),
    ),
    "dice": Loss(
        lambda logits, targets: losses.dice_loss(
            logits[..., 0], targets == 0, alpha=0.1
        ),
        ("dice_loss",),
    ),
    "dice of classes": Loss(
        lambda logits, targets: losses.multiclass_dice_loss(logits, targets, alpha=0.1),
        ("multiclass_dice_loss",),
    ),
    "hazard": Loss(of_times, ("hazard_loss", "discretize_times", "DiscreteTimes")),
    "survival": Loss(of_survival, ("survival_curve",)),
    "z": Loss(losses.z_loss, ("z_loss",)),
    "z of sums": Loss(
        of_sums(losses.z_loss_from_sums, n_classes=V),
        ("z_loss_from_sums", "sum_logits", "LogitSums"),
    ),
    # These three are computed from sums in either form.
    "taylor": Loss(
        of_sums(losses.taylor_softmax_loss_from_sums, n_classes=V),
        ("taylor_softmax_loss", "taylor_softmax_loss_from_sums"),
    ),
    "spherical softmax": Loss(
        of_sums(losses.spherical_softmax_loss_from_sums, n_classes=V),
        ("spherical_softmax_loss", "spherical_softmax_loss_from_sums"),
    ),
    "squared error": Loss(
        of_sums(losses.spherical_squared_error_from_sums),
        ("spherical_squared_error", "spherical_squared_error_from_sums"),
    ),
    "info nce": Loss(by_set(contrast), ("info_nce_loss",)),
    "simple contrastive": Loss(
        by_set(
            lambda logits, targets: losses.simple_contrastive_loss(
                logits, past_of(logits, targets), weight=0.1
            )
        ),
        ("simple_contrastive_loss",),
    ),
    # Of as many means and variances as there are logits; targets do not matter.
    "normal divergence": Loss(
        lambda logits, targets: losses.standard_normal_divergence(
            logits, past_of(logits, targets)
        ),
        ("standard_normal_divergence",),
    ),
    "prototypical": Loss(of_distances, ("prototypical_logits",)),
    "proto triplet": Loss(
        lambda logits, targets: losses.proto_triplet_loss(
            logits, targets, prototypes_ND=jnp.eye(V), margin=2.0
        ),
        ("proto_triplet_loss",),
    ),
    "surprisal": Loss(
        against_text, ("surprisal_weights", "surprisal_weights_of_losses")
    ),
    "direct preference": Loss(against_template, ("direct_preference_loss",)),
    "negative preference": Loss(
        lambda logits, targets: losses.negative_preference_loss(
            two_answers(logits, targets)[1][1], jnp.full(targets.shape, -0.1)
        ),
        ("negative_preference_loss",),
    ),
    "simple npo": Loss(
        lambda logits, targets: losses.simple_npo_loss(
            two_answers(logits, targets)[1][1], jnp.ones(targets.shape, int)
        ),
        ("simple_npo_loss",),
    ),
    "gradient difference": Loss(
        lambda logits, targets: losses.gradient_difference(
            losses.next_token_loss(logits, targets),
            losses.next_token_loss(logits, jnp.full(targets.shape, V - 1)),
            retain_weight=0.5,
        ),
        ("gradient_difference",),
    ),
    "flat": Loss(
        forget_by_all,
        (*DIVERGENCES, "flat_loss", "mean_token_probability", "DivergenceTerms"),
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
    ),
    "kl dro": Weights(
        lambda values, prior: losses.kl_dro_weights(
            values, temperature=2.0, prior_B=prior
        ),
        ("kl_dro_weights",),
    ),
}
MASKS = {
    "small losses": Mask(
        lambda values, there: losses.small_loss_mask(values, k=2, where=there),
        ("small_loss_mask",),
    ),
    "hard negatives": Mask(
        lambda values, there: losses.hard_negative_mask(
            values, jnp.zeros(values.shape, int), k=2, where=there
        ),
        ("hard_negative_mask",),
    ),
}


def of_labels(of, **options):
    """A loss of a set of logits, of which every third is a positive."""

    def run(values, weights):
        labels = jnp.arange(values.size).reshape(values.shape) % 3 == 0
        return of(values, labels, weights=weights, **options)

    return run


REDUCTIONS = {
    "mean": Reduction(losses.weighted_mean, ("weighted_mean",)),
    "sums": Reduction(lambda v, w: losses.weighted_sums(v, w)[0], ("weighted_sums",)),
    "rows": Reduction(losses.sequence_means, ("sequence_means",), rows=True),
    "dice of a set": Reduction(
        of_labels(losses.set_dice_loss, alpha=0.1), ("set_dice_loss",)
    ),
    "tversky": Reduction(
        of_labels(losses.set_tversky_loss, false_positive_cost=0.3),
        ("set_tversky_loss",),
    ),
    "kl dro": Reduction(
        lambda v, w: losses.set_kl_dro_loss(v, temperature=2.0, weights=w),
        ("set_kl_dro_loss",),
    ),
}
every_loss = pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)
every_weights = pytest.mark.parametrize("row", WEIGHTS.values(), ids=WEIGHTS)
every_mask = pytest.mark.parametrize("row", MASKS.values(), ids=MASKS)
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


@cache
def compiled(of):
    """One program a row and shape: op by op, each would compile."""
    return jax.jit(of)


@cache
def mapped(of):
    return jax.jit(jax.vmap(of))


@cache
def pulled(of):
    """The values, and the gradient by the first argument of their sum in shares.

    In equal shares the gradient of what sums to one would be zero anyway.
    """

    def run(first, second):
        values, pull = jax.vjp(lambda first: of(first, second), first)
        shares = jnp.arange(1.0, values.size + 1).reshape(values.shape)
        return values, pull(shares)[0]

    return jax.jit(run)


def test_every_public_name_has_a_row():
    tables = LOSSES, WEIGHTS, MASKS, REDUCTIONS
    rows = [row for table in tables for row in table.values()]
    assert {name for row in rows for name in row.covers} == (
        set(losses.__all__) - TYPES_ONLY - OF_SETS
    )


def test_at_most_two_arguments_are_positional():
    for name in set(losses.__all__) - TYPES_ONLY:
        if isinstance(getattr(losses, name), type):
            continue
        given = inspect.signature(getattr(losses, name)).parameters.values()
        kinds = [parameter.kind for parameter in given]
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2, name


@every_loss
def test_a_loss_has_a_value_per_example_and_jit_and_vmap_change_nothing(row):
    logits, targets = logits_and_targets()
    values = row.of(logits, targets)
    assert values.shape == targets.shape and values.dtype == jnp.float32
    close(compiled(row.of)(logits, targets), values)
    close(mapped(row.of)(logits, targets), values)


@every_loss
def test_a_loss_of_bfloat16_is_computed_in_float32(row):
    low, targets = logits_and_targets(jnp.bfloat16)
    values, gradient = pulled(row.of)(low, targets)
    assert values.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    close(values, compiled(row.of)(low.astype(jnp.float32), targets))


@every_loss
def test_a_weight_of_zero_removes_an_example_from_a_loss(row):
    logits, targets = logits_and_targets()
    weights = jnp.ones((B, T)).at[1].set(0.0)

    @jax.jit
    @jax.value_and_grad
    def mean(logits):
        return losses.weighted_mean(row.of(logits, targets), weights)

    value, gradient = mean(logits)
    there = np.asarray(compiled(row.of)(logits, targets))[[0, 2]]
    close(value, there.mean())
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.any(gradient[0] != 0) and np.any(gradient[2] != 0)
    broken, _ = mean(logits.at[1].set(jnp.nan))
    np.testing.assert_array_equal(broken, value)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_loss_has_a_finite_gradient_at_the_edges(row, dtype):
    edges = np.zeros((B, T, V))
    edges[0, 1:] = -1e4
    edges[1, :, 0] = 1e4
    edges[2, :, 1] = -1e4
    targets = jnp.ones((B, T), jnp.int32)
    values, gradient = pulled(row.of)(jnp.asarray(edges, dtype), targets)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))


@every_weights
def test_weights_sum_to_one_and_jit_and_vmap_change_nothing(row):
    values, prior = losses_and_prior()
    weights = row.of(values, prior)
    assert weights.shape == values.shape and weights.dtype == jnp.float32
    close(np.sum(weights), 1)
    assert np.ptp(weights[prior > 0] / prior[prior > 0]) > 0.05, "not uniform"
    close(compiled(row.of)(values, prior), weights)
    pair = jnp.stack([values, values[::-1]]), jnp.stack([prior, prior[::-1]])
    close(mapped(row.of)(*pair), jnp.stack([weights, weights[::-1]]))


@every_weights
def test_weights_of_bfloat16_are_computed_in_float32(row):
    values, prior = losses_and_prior()
    low = values.astype(jnp.bfloat16)
    of = compiled(row.of)
    close(of(low, prior), of(low.astype(jnp.float32), prior))


@every_weights
def test_weights_leave_out_what_the_prior_leaves_out_and_have_no_gradient(row):
    values, prior = losses_and_prior()
    there = np.flatnonzero(prior)
    weights, gradient = pulled(row.of)(values.at[2].set(1e6), prior)
    assert weights[2] == 0
    close(weights[there], compiled(row.of)(values[there], prior[there]))
    np.testing.assert_array_equal(gradient, 0)


@every_weights
def test_weights_of_equal_losses_are_the_prior(row):
    _, prior = losses_and_prior()
    of = compiled(row.of)
    close(of(jnp.full(5, 2.0), prior), prior / prior.sum())
    np.testing.assert_array_equal(of(jnp.ones(5), jnp.zeros(5)), 0)


@every_mask
def test_a_mask_keeps_k_of_what_is_there_and_nan_first(row):
    values, prior = losses_and_prior()
    there = prior > 0
    mask = row.of(values, there)
    assert mask.dtype == bool and mask.shape == values.shape
    assert np.sum(mask) == 2 and not np.any(mask & ~there)
    np.testing.assert_array_equal(compiled(row.of)(values, there), mask)
    pair = jnp.stack([values, values[::-1]]), jnp.stack([there, there[::-1]])
    np.testing.assert_array_equal(mapped(row.of)(*pair), np.stack([mask, mask[::-1]]))
    for at in np.flatnonzero(there):
        for extreme in (jnp.inf, -jnp.inf):
            broken = jnp.full(5, extreme).at[at].set(jnp.nan)
            assert compiled(row.of)(broken, there)[at], "NaN must stay visible"
    few = jnp.array([False, True, False, False, False])
    np.testing.assert_array_equal(compiled(row.of)(values, few), few)


@every_reduction
def test_a_reduction_is_float32_and_jit_and_vmap_change_nothing(row):
    values, weights = values_and_weights()
    low = [x.astype(jnp.bfloat16) for x in (values, weights)]
    assert jax.eval_shape(row.of, *low).dtype == jnp.float32
    got = row.of(values, weights)
    assert got.shape == ((B,) if row.rows else ())
    close(compiled(row.of)(values, weights), got)
    both = jnp.stack([values, 2 * values]), jnp.stack([weights, weights])
    doubled = compiled(row.of)(2 * values, weights)
    close(mapped(row.of)(*both), jnp.stack([got, doubled]))


@every_reduction
def test_a_weight_of_zero_removes_a_value_from_a_reduction(row):
    values, weights = values_and_weights()
    got, gradient = pulled(row.of)(values, weights)
    assert gradient[1, 2] == 0 and np.count_nonzero(gradient) == B * T - 1
    for other in (jnp.nan, 1e6):
        changed, _ = pulled(row.of)(values.at[1, 2].set(other), weights)
        np.testing.assert_array_equal(changed, got)


@every_reduction
def test_a_reduction_over_no_weight_is_zero_with_a_finite_gradient(row):
    values, weights = values_and_weights()
    got, gradient = pulled(row.of)(values, jnp.zeros_like(weights))
    np.testing.assert_array_equal(got, jnp.zeros_like(got))
    assert np.all(np.isfinite(gradient))
