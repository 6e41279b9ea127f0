"""One row a score: scikit-learn or scipy agrees, and edges have a stated value.

To add a score, add a row. scikit-learn is the oracle and never imported by the library.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.special import softmax
from scipy.stats import somersd
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from lostjax import metrics

CLASSES = 4


class Row(NamedTuple):
    """A score under contract."""

    score: Callable[..., Any]
    oracle: Callable[..., Any]
    draw: Callable[[np.random.Generator], tuple[Any, ...]]
    bad: Callable[..., dict[str, tuple[Any, ...]]]
    """From good arguments to bad ones, by what the message must hold."""


def draw_logits(rng):
    """Logits of 60 examples with a few ties, and their labels."""
    logits = rng.normal(size=(60, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, size=60)


def draw_classes(rng):
    """Predictions that are right half of the time; the last class is rare."""
    labels = rng.choice(CLASSES, size=80, p=[0.6, 0.2, 0.19, 0.01])
    guess = rng.choice(CLASSES, size=80, p=[0.6, 0.2, 0.19, 0.01])
    return np.where(rng.random(80) < 0.5, labels, guess), labels


def draw_scores(rng):
    """Scores with many ties, signs of zero and infinities, and labels."""
    scores = rng.integers(-3, 4, size=70).astype(np.float32) * rng.choice([-1, 1], 70)
    scores[:2] = -np.inf, np.inf
    labels = rng.random(70) < 0.3
    labels[:4] = False, True, False, True
    return scores, labels


def draw_times(rng):
    """Risks with ties, times without, all of them seen."""
    risks = rng.integers(0, 12, size=150).astype(np.float32)
    return risks, rng.permutation(150).astype(np.float32), np.ones(150, bool)


def draw_censored(rng):
    """Risks and times with ties, half of them censored."""
    risks = rng.integers(0, 12, size=150).astype(np.float32)
    times = rng.integers(1, 40, size=150).astype(np.float32)
    return risks, times, rng.random(150) < 0.5


def draw_survival(rng):
    """Probabilities of surviving one time, and times, half of them censored."""
    _, times, events = draw_censored(rng)
    return rng.random((150, 1)).astype(np.float32), times, events


def draw_points(rng):
    x = rng.normal(size=(2, 30, 5)).astype(np.float32)
    return tuple(x / np.linalg.norm(x, axis=-1, keepdims=True))


def concordance(risks, times, events):
    return metrics.concordance_index(risks, times, events_B=events)


def uno(risks, times, events):
    return metrics.uno_concordance_index(risks, times, events_B=events, horizon=30.0)


def brier_at(survival, times, events):
    return metrics.censored_brier_score(
        survival, times, events_B=events, horizons_H=np.array([20.0])
    )


def integrated(survival, times, events):
    both = jnp.concatenate([survival, survival / 2], axis=1)
    return metrics.integrated_brier_score(
        both, times, events_B=events, horizons_H=np.array([20.0, 30.0])
    )


def uncensored(times, events, at):
    """Kaplan and Meier's product over the times of what was censored, one by one."""
    share = 1.0
    for time in np.unique(times[(times <= at) & ~events]):
        at_risk = np.sum(times >= time) - np.sum((times == time) & events)
        share *= 1 - np.sum((times == time) & ~events) / at_risk
    return share


def naive_uno(risks, times, events):
    won = pairs = 0.0
    for i in np.flatnonzero(events & (times < 30)):
        later = (times > times[i]) | ((times == times[i]) & ~events)
        weight = uncensored(times, events, times[i]) ** -2.0
        pairs += weight * later.sum()
        won += weight * np.sum((risks[i] > risks)[later])
        won += weight * np.sum((risks[i] == risks)[later]) / 2
    return won / pairs


def naive_brier(survival, times, events, at):
    total = 0.0
    for p, time, event in zip(survival[:, 0], times, events, strict=True):
        if time > at:
            total += (1.0 - p) ** 2 / uncensored(times, events, at)
        elif event:
            total += float(p) ** 2 / uncensored(times, events, time)
    return total / len(times)


def mean_likeness(x, labels):
    pairs = [
        np.dot(x[i].astype(float), x[j])
        for i in range(len(x))
        for j in range(i)
        if labels[i] == labels[j]
    ]
    return np.mean(pairs)


def average_calibration(logits, labels):
    """Sum scikit-learn's calibration curve, which leaves out empty bins."""
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    confidence = probabilities.max(-1)
    right, mean = calibration_curve(
        logits.argmax(-1) == labels, confidence, n_bins=15, strategy="uniform"
    )
    counts, _ = np.histogram(-confidence, bins=-np.linspace(0, 1, 16)[::-1])
    counts = counts[::-1]
    return np.sum(counts[counts > 0] * np.abs(right - mean)) / len(labels)


def brier(logits, labels):
    return sk.brier_score_loss(
        labels,
        softmax(logits.astype(np.float64), axis=-1),
        labels=range(CLASSES),
        scale_by_half=False,
    )


def bad_logits(logits, labels):
    return {
        r"logits: shape \(0, 4\), needs 1": (logits[:0], labels[:0]),
        r"labels: shape \(59,\), must be \(60,\)": (logits, labels[1:]),
        r"labels: holds 4, must lie in \[0, 4\)": (logits, np.full_like(labels, 4)),
        r"labels: holds -1, must lie in \[0, 4\)": (logits, np.full_like(labels, -1)),
    }


def bad_classes(predicted, labels):
    return {
        r"predicted_B: shape \(0,\), needs 1": (predicted[:0], labels[:0]),
        r"labels_B: shape \(79,\), must be \(80,\)": (predicted, labels[1:]),
        r"labels_B: holds 4, must lie in \[0, 4\)": (
            predicted,
            np.full_like(labels, 4),
        ),
        r"predicted_B: holds -1, must lie": (np.full_like(labels, -1), labels),
    }


def draw_texts(rng):
    """Log-probabilities of 40 texts; those of members are a little larger."""
    members = rng.random(40) < 0.4
    members[:2] = False, True
    values = -rng.exponential(size=(40, 9)).astype(np.float32)
    return values * (1 - 0.3 * members[:, None]).astype(np.float32), members


def smallest_tell_members(values, members):
    """Min-K% by its definition: the mean of the smallest fifth, one of nine tokens."""
    return sk.roc_auc_score(members, np.min(values, axis=1))


def bad_scores(scores, labels):
    return {
        r"scores_B: shape \(0,\), needs 1": (scores[:0], labels[:0]),
        r"labels_B: shape \(69,\), must be \(70,\)": (scores, labels[1:]),
        "labels_B: holds 2, must be 0 or 1": (scores, np.full(70, 2)),
    }


def bad_times(risks, times, events):
    return {
        r"risks_B: shape \(0,\), needs 1": (risks[:0], times[:0], events[:0]),
        r"times_B: shape \(149,\), must be \(150,\)": (risks, times[1:], events),
        r"events_B: shape \(149,\), must be": (risks, times, events[1:]),
        "events_B: holds -1, must be 0 or 1": (risks, times, np.full(150, -1)),
    }


def bad_survival(survival, times, events):
    return {
        r"survival_BH: shape \(0, [12]\), needs 1": (
            survival[:0],
            times[:0],
            events[:0],
        ),
        r"times_B: shape \(149,\), must be \(150,\)": (survival, times[1:], events),
        "events_B: holds 2, must be 0 or 1": (survival, times, np.full(150, 2)),
    }


def of_logits(score, oracle):
    return Row(score, oracle, draw_logits, bad_logits)


def of_classes(score, oracle):
    def scored(predicted, labels):
        return score(predicted, labels, n_classes=CLASSES)

    return Row(scored, oracle, draw_classes, bad_classes)


def f1(average, **more):
    return lambda predicted, labels: sk.f1_score(
        labels, predicted, average=average, **more
    )


ROWS = {
    "accuracy": of_logits(
        metrics.accuracy, lambda z, y: sk.accuracy_score(y, z.argmax(-1))
    ),
    "error_rate": of_logits(
        metrics.error_rate, lambda z, y: sk.zero_one_loss(y, z.argmax(-1))
    ),
    "top_k_accuracy": of_logits(
        lambda z, y: metrics.top_k_accuracy(z, y, k=2),
        lambda z, y: sk.top_k_accuracy_score(y, z, k=2, labels=range(CLASSES)),
    ),
    "brier_score": of_logits(metrics.brier_score, brier),
    "expected_calibration_error": of_logits(
        metrics.expected_calibration_error, average_calibration
    ),
    "confusion_matrix": of_classes(
        metrics.confusion_matrix,
        lambda p, y: sk.confusion_matrix(y, p, labels=range(CLASSES)),
    ),
    "balanced_accuracy": of_classes(
        metrics.balanced_accuracy, lambda p, y: sk.balanced_accuracy_score(y, p)
    ),
    "class_f1": of_classes(
        metrics.class_f1, f1(None, labels=range(CLASSES), zero_division=np.nan)
    ),
    "macro_f1": of_classes(metrics.macro_f1, f1("macro")),
    "micro_f1": of_classes(
        lambda p, y, n_classes: metrics.micro_f1(p, y, n_classes=n_classes, ignore=[0]),
        f1("micro", labels=[1, 2, 3]),
    ),
    "matthews_correlation": of_classes(
        metrics.matthews_correlation, lambda p, y: sk.matthews_corrcoef(y, p)
    ),
    "roc_auc": Row(
        metrics.roc_auc,
        # scikit-learn refuses infinite scores: their ranks are as good.
        lambda s, y: sk.roc_auc_score(y, np.clip(s, -9, 9)),
        draw_scores,
        bad_scores,
    ),
    "membership_auc": Row(
        metrics.membership_auc,
        smallest_tell_members,
        draw_texts,
        lambda x, y: {
            r"log_probabilities_BT: shape \(0, 9\), needs 1": (x[:0], y[:0]),
            r"members_B: shape \(39,\), must be \(40,\)": (x, y[1:]),
            "holds 2, must be 0 or 1": (x, np.full(40, 2)),
        },
    ),
    "average_precision": Row(
        metrics.average_precision,
        lambda s, y: sk.average_precision_score(y, np.clip(s, -9, 9)),
        draw_scores,
        bad_scores,
    ),
    "concordance_index": Row(
        concordance,
        lambda r, t, _: (somersd(-t, r).statistic + 1) / 2,
        draw_times,
        bad_times,
    ),
    "uno_concordance_index": Row(uno, naive_uno, draw_censored, bad_times),
    "censored_brier_score": Row(
        brier_at,
        lambda s, t, e: [naive_brier(s, t, e, 20.0)],
        draw_survival,
        bad_survival,
    ),
    "integrated_brier_score": Row(
        integrated,
        lambda s, t, e: (naive_brier(s, t, e, 20) + naive_brier(s / 2, t, e, 30)) / 2,
        draw_survival,
        bad_survival,
    ),
    "alignment": Row(
        metrics.alignment,
        lambda x, y: np.mean(np.linalg.norm(x - y, axis=-1) ** 2),
        draw_points,
        lambda x, y: {
            r"x_BD: shape \(0, 5\), needs 1": (x[:0], y[:0]),
            r"y_BD: shape \(29, 5\), must be \(30, 5\)": (x, y[1:]),
        },
    ),
    "uniformity": Row(
        metrics.uniformity,
        lambda x: np.log(np.mean(np.exp(-2 * pdist(x.astype(float)) ** 2))),
        lambda rng: draw_points(rng)[:1],
        lambda x: {r"x_BD: shape \(1, 5\), needs 2": (x[:1],)},
    ),
    "tolerance": Row(
        metrics.tolerance,
        mean_likeness,
        lambda rng: (draw_points(rng)[0], rng.integers(-1, 6, size=30)),
        lambda x, y: {
            r"x_BD: shape \(1, 5\), needs 2": (x[:1], y[:1]),
            r"labels_B: shape \(29,\), must be \(30,\)": (x, y[1:]),
        },
    ),
}
CURVES = {"Censoring", "fit_censoring"}
"""No scores, but what some are weighted by; tested in test_survival.py."""

OF_SUMS = {"perplexity", "bits_per_byte"}
"""Scores of two numbers; they have tests of their own below."""

every_row = pytest.mark.parametrize("name", ROWS)


@contextlib.contextmanager
def unchecked_types():
    """Call as users do, for whom no shapes are checked by their annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def compiled(score, *arrays, **options):
    """Score in one program: op by op, each operation would compile."""
    given = {k: v for k, v in options.items() if isinstance(v, np.ndarray)}
    fixed = {k: v for k, v in options.items() if k not in given}
    return jax.jit(functools.partial(score, **fixed))(*arrays, **given)


@functools.cache
def program(name):
    """One program for each row."""
    return jax.jit(ROWS[name].score)


def draw(name, seed=0):
    return ROWS[name].draw(np.random.default_rng(seed))


def test_every_public_score_has_a_row():
    assert set(ROWS) | OF_SUMS | CURVES == set(metrics.__all__)


@every_row
@pytest.mark.parametrize("seed", range(5))
def test_others_agree(name, seed):
    arguments = draw(name, seed)
    expected = ROWS[name].oracle(*arguments)
    found = program(name)(*arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@every_row
def test_compiled_and_mapped_are_the_same(name):
    many = [draw(name, seed) for seed in range(3)]
    first = ROWS[name].score(*many[0])
    one_by_one = jnp.stack([first, *(program(name)(*each) for each in many[1:])])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    mapped = jax.jit(jax.vmap(ROWS[name].score))(*stacked)
    np.testing.assert_allclose(mapped, one_by_one, rtol=1e-6, atol=1e-7)
    assert mapped.dtype == one_by_one.dtype != jnp.float64


@every_row
def test_bad_input_is_named(name):
    cases = ROWS[name].bad(*draw(name))
    for message, arguments in cases.items():
        with unchecked_types(), pytest.raises(ValueError, match=message):
            ROWS[name].score(*arguments)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, row in ROWS.items()
        if row.draw is not draw_classes and name != "top_k_accuracy"
    ],
)
def test_a_nan_shows(name):
    first, *rest = draw(name)
    first = first.copy()
    first.flat[-1] = np.nan
    assert np.isnan(program(name)(first, *rest))


@every_row
def test_the_order_of_examples_does_not_matter(name):
    arguments = draw(name)
    order = np.random.default_rng(1).permutation(len(arguments[0]))
    found = program(name)(*[each[order] for each in arguments])
    np.testing.assert_allclose(found, program(name)(*arguments), rtol=1e-6)


def test_at_most_two_arguments_are_positional():
    for name in metrics.__all__:
        kinds = [
            p.kind
            for p in inspect.signature(getattr(metrics, name)).parameters.values()
        ]
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2, name


# Edges, by score.

WEIGHTED = ("accuracy", "error_rate", "brier_score", "expected_calibration_error")


@pytest.mark.parametrize("name", WEIGHTED)
def test_an_example_of_weight_0_is_not_there(name):
    score = getattr(metrics, name)
    logits, labels = draw(name)
    kept = np.arange(60) < 45
    broken = np.where(kept[:, None], logits, np.nan)
    weighted = jax.jit(score)
    found = weighted(broken, labels, weights=kept.astype(np.float32))
    there = compiled(score, logits[kept], labels[kept])
    np.testing.assert_allclose(found, there, rtol=1e-6)
    assert np.isnan(weighted(logits, labels, weights=np.zeros(60, np.float32)))
    doubled = weighted(logits, labels, weights=np.float32(1.0 + kept))
    both = [np.concatenate([each, each[kept]]) for each in (logits, labels)]
    np.testing.assert_allclose(doubled, compiled(score, *both), rtol=1e-6)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"weights: holds {bad}"):
            score(logits, labels, weights=np.full(60, bad))


@pytest.mark.parametrize("name", ["accuracy", "error_rate", "brier_score"])
def test_tokens_are_examples(name):
    score = getattr(metrics, name)
    logits, labels = draw(name)
    text = compiled(score, logits.reshape(6, 10, CLASSES), labels.reshape(6, 10))
    np.testing.assert_allclose(text, score(logits, labels), rtol=1e-6)
    one = compiled(score, logits[0], labels[0])
    assert one == compiled(score, logits[:1], labels[:1])


def test_ties_of_logits_go_to_the_lower_class():
    constant = np.zeros((CLASSES, CLASSES), np.float32)
    assert metrics.accuracy(constant, np.arange(CLASSES)) == 1 / CLASSES
    assert metrics.error_rate(constant, np.arange(CLASSES)) == 1 - 1 / CLASSES


def test_a_tie_or_a_nan_is_no_place_among_the_k_largest():
    constant = np.zeros((CLASSES, CLASSES), np.float32)
    for k in range(1, CLASSES):
        assert metrics.top_k_accuracy(constant, np.arange(CLASSES), k=k) == 0
    assert metrics.top_k_accuracy(constant, np.arange(CLASSES), k=CLASSES) == 1
    rivals = {(1, 2, 2, 0): [2, 1, 1, 3], (3, np.nan, 1, -np.inf): [1, 4, 2, 3]}
    for logits, counts in rivals.items():
        for label, count in enumerate(counts):
            for k in range(1, 5):
                found = metrics.top_k_accuracy(
                    np.array([logits], np.float32), np.array([label]), k=k
                )
                assert found == (count < k)
    for k in (0, CLASSES + 1):
        with pytest.raises(ValueError, match=rf"k={k}: must lie in \[1, 4\]"):
            metrics.top_k_accuracy(constant, np.arange(CLASSES), k=k)


def test_a_traced_label_that_is_no_class_is_never_right():
    top = jax.jit(lambda z, y: metrics.top_k_accuracy(z, y, k=CLASSES))
    for value in (0, -np.inf):
        logits = np.full((4, CLASSES), value, np.float32)
        assert top(logits, np.array([-1, 0, 3, 4])) == 0.5
    count = jax.jit(lambda p, y: metrics.confusion_matrix(p, y, n_classes=CLASSES))
    counts = count(np.array([-1, 0, 3, 4, 0]), np.array([0, -1, 3, 0, 4]))
    assert counts.sum() == counts[3, 3] == 1


def test_a_score_of_all_right_is_exact():
    labels = np.arange(1001) % CLASSES
    logits = 1e4 * np.eye(CLASSES, dtype=np.float32)[labels]
    assert metrics.accuracy(logits, labels) == 1
    assert metrics.error_rate(logits, labels) == 0
    assert metrics.brier_score(logits, labels) == 0
    assert metrics.expected_calibration_error(logits, labels) == 0
    assert metrics.matthews_correlation(labels, labels, n_classes=CLASSES) == 1


def test_confidence_at_an_edge_belongs_to_the_lower_bin():
    """Confidences of .5 and .9 (right) and .4 (wrong), in two bins."""
    wide = np.array(
        [[0, 0, -np.inf], np.log([0.9, 0.05, 0.05]), np.log([0.4, 0.3, 0.3])]
    )
    found = metrics.expected_calibration_error(
        wide.astype(np.float32), np.array([0, 0, 1]), n_bins=2
    )
    np.testing.assert_allclose(found, ((0.5 - 0.4) + 0.1) / 3, rtol=1e-5)
    logits = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32))
    found = metrics.expected_calibration_error(logits, np.array([0, 0]), n_bins=1)
    np.testing.assert_allclose(found, (1.25 - 1) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="n_bins=0: must be at least 1"):
        metrics.expected_calibration_error(logits, np.array([0, 0]), n_bins=0)


def test_classes_that_are_not_there_do_not_count():
    predicted, labels = np.array([0, 1, 1]), np.array([0, 1, 0])
    few, many = (
        [
            score(predicted, labels, n_classes=n)
            for score in (
                metrics.macro_f1,
                metrics.micro_f1,
                metrics.balanced_accuracy,
                metrics.matthews_correlation,
            )
        ]
        for n in (2, 9)
    )
    np.testing.assert_allclose(few, many, rtol=1e-6)
    by_class = metrics.class_f1(predicted, labels, n_classes=3)
    assert np.isnan(by_class[2]) and not np.isnan(by_class[:2]).any()
    absent = metrics.micro_f1(predicted, labels, n_classes=3, ignore=[0, 1])
    assert np.isnan(absent)
    for bad in (-1, 3):
        with pytest.raises(ValueError, match=f"ignore: holds {bad}"):
            metrics.micro_f1(predicted, labels, n_classes=3, ignore=[bad])
    with pytest.raises(ValueError, match="n_classes=0: must be at least 1"):
        metrics.confusion_matrix(predicted, labels, n_classes=0)


def test_micro_f1_of_all_classes_is_the_accuracy():
    predicted, labels = draw("micro_f1")
    found = metrics.micro_f1(predicted, labels, n_classes=CLASSES)
    np.testing.assert_allclose(found, np.mean(predicted == labels), rtol=1e-6)


def test_counts_of_batches_add_up():
    predicted, labels = draw("confusion_matrix")
    parts = [
        metrics.confusion_matrix(predicted[at], labels[at], n_classes=CLASSES)
        for at in (slice(0, 30), slice(30, 80))
    ]
    expected = metrics.confusion_matrix(predicted, labels, n_classes=CLASSES)
    np.testing.assert_array_equal(sum(parts), expected)


@pytest.mark.parametrize("rare", [1, 5])
def test_matthews_keeps_its_digits_with_rare_classes(rare):
    labels = (np.arange(100_000) < rare).astype(int)
    predicted = (np.arange(100_000) % 25_000 == 0).astype(int)
    found = metrics.matthews_correlation(predicted, labels, n_classes=2)
    expected = sk.matthews_corrcoef(labels, predicted)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 1]], ids=str)
def test_matthews_of_one_predicted_class_is_0(labels):
    assert (
        metrics.matthews_correlation(np.zeros(3, int), np.array(labels), n_classes=2)
        == 0
    )


def test_orders_without_a_value_are_nan():
    scores = np.arange(3, dtype=np.float32)
    for labels in (np.zeros(3, bool), np.ones(3, bool)):
        assert np.isnan(metrics.roc_auc(scores, labels))
    assert np.isnan(metrics.average_precision(scores, np.zeros(3, bool)))
    assert metrics.average_precision(scores, np.ones(3, bool)) == 1
    assert metrics.roc_auc(np.zeros(4, np.float32), np.array([0, 1, 1, 0])) == 0.5
    found = metrics.average_precision(np.zeros(4, np.float32), np.array([0, 1, 0, 0]))
    assert found == 0.25


def test_auc_keeps_its_digits_with_few_negatives():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=50_000).astype(np.float32)
    labels = np.arange(50_000) >= 10
    found = compiled(metrics.roc_auc, scores, labels)
    np.testing.assert_allclose(found, sk.roc_auc_score(labels, scores), rtol=1e-6)


def naive_concordance(risks, times, events):
    """Harrell's definition, pair by pair."""
    won = pairs = 0.0
    for i in range(len(risks)):
        for j in range(i):
            if times[i] == times[j]:
                if events[i] == events[j]:
                    continue
                first, other = (i, j) if events[i] else (j, i)
            else:
                first, other = (i, j) if times[i] < times[j] else (j, i)
                if not events[first]:
                    continue
            pairs += 1
            won += 0.5 * (risks[first] == risks[other]) + (risks[first] > risks[other])
    return won / pairs if pairs else math.nan


@pytest.mark.parametrize("n", [2, 63, 64, 65, 130])
def test_concordance_with_censoring_and_ties_of_times(n):
    rng = np.random.default_rng(n)
    risks = rng.integers(0, 6, size=n).astype(np.float32)
    times = rng.integers(1, 9, size=n)
    events = rng.random(n) < 0.5
    found = compiled(concordance, risks, times, events)
    np.testing.assert_allclose(
        found, naive_concordance(risks, times, events), rtol=1e-6
    )


def test_concordance_of_two_times_is_the_auc():
    scores, labels = draw("roc_auc")
    found = compiled(concordance, scores, np.where(labels, 1.0, 2.0), labels)
    np.testing.assert_allclose(found, metrics.roc_auc(scores, labels), rtol=1e-6)


def test_concordance_without_a_pair_is_nan():
    risks, times = np.arange(3, dtype=np.float32), np.arange(3)
    assert np.isnan(concordance(risks, times, np.zeros(3, bool)))
    assert np.isnan(concordance(risks, np.zeros(3), np.ones(3, bool)))
    assert np.isnan(concordance(risks, np.array([0, np.nan, 1]), np.ones(3, bool)))


def test_a_constant_representation_is_aligned_and_not_uniform():
    x_BD = np.tile(np.array([[0.6, 0.8]], np.float32), (20, 1))
    assert metrics.alignment(x_BD, x_BD) == 0
    assert abs(metrics.uniformity(x_BD)) < 1e-5
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    for t in (2.0, 50.0):  # exp(-200) is no float32
        np.testing.assert_allclose(metrics.uniformity(opposite, t=t), -4 * t, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.alignment(opposite, opposite[::-1], power=3), 8, rtol=1e-6
    )
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"t={bad}: must be positive"):
            metrics.uniformity(x_BD, t=bad)
        with pytest.raises(ValueError, match=f"power={bad}: must be positive"):
            metrics.alignment(x_BD, x_BD, power=bad)


def test_a_uniform_model_has_its_vocabulary_for_perplexity():
    nats = 1000 * math.log(256)
    assert metrics.perplexity(nats, tokens=1000) == pytest.approx(256)
    assert metrics.bits_per_byte(nats, n_bytes=1000) == pytest.approx(8)
    assert metrics.perplexity(0, tokens=3) == 1
    assert metrics.perplexity(710, tokens=1) == math.inf
    assert metrics.perplexity(709, tokens=1) < math.inf
    assert math.isnan(metrics.perplexity(math.nan, tokens=3))
    assert math.isnan(metrics.bits_per_byte(math.nan, n_bytes=3))


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_sums_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"tokens={bad}: must be positive"):
        metrics.perplexity(1.0, tokens=bad)
    with pytest.raises(ValueError, match=f"n_bytes={bad}: must be positive"):
        metrics.bits_per_byte(1.0, n_bytes=bad)
    with pytest.raises(ValueError, match="nats=-1: must be 0 or positive"):
        metrics.perplexity(-1, tokens=1)


def test_membership_is_told_by_the_smallest_share_of_the_tokens_that_count():
    values, members = draw("membership_auc")
    counts = np.arange(9) < np.random.default_rng(3).integers(1, 10, size=40)[:, None]
    hidden = np.where(counts, values, np.nan)  # padding may hold anything
    for share in (0.29, 0.5, 1.0):
        means = [
            np.mean(np.sort(row[kept])[: max(1, int(share * kept.sum() + 1e-6))])
            for row, kept in zip(values, counts, strict=True)
        ]
        found = compiled(
            metrics.membership_auc,
            hidden,
            members,
            weights_BT=counts.astype(np.float32),
            share=share,
        )
        np.testing.assert_allclose(found, sk.roc_auc_score(members, means), rtol=1e-6)
    for share in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"share={share}: must"):
            metrics.membership_auc(values, members, share=share)
    empty = np.zeros((40, 9), np.float32)
    assert np.isnan(metrics.membership_auc(values, members, weights_BT=empty))
