"""Baselines of attribution, and faithfulness: closed forms, Shapley values, limits."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lostjax import analysis

V, T, D = 5, 4, 3
TOKENS_T = jnp.array([3, 1, 4, 1])
KEY = jax.random.key(0)
WEIGHT_T = jnp.array([0.3, -0.1, 0.2, 0.0])


def additive(tokens_BT):
    """p(2) = 0.4 + the sum of the weights of the tokens that are kept."""
    kept_BT = tokens_BT != 0
    p_B = 0.4 + kept_BT @ WEIGHT_T
    return jnp.stack([1 - p_B, 0 * p_B, p_B, 0 * p_B, 0 * p_B], axis=1)


def with_interaction(tokens_BT):
    """As above, and 0.1 if both the first and the last token are kept."""
    both_B = (tokens_BT[:, 0] != 0) & (tokens_BT[:, 3] != 0)
    return additive(tokens_BT) + 0.1 * both_B[:, None] * jnp.array([-1, 0, 1, 0, 0])


def shapley(probs):
    """The definition: the mean of what a token adds, over all orders."""
    scores = np.zeros(T)
    for order in itertools.permutations(range(T)):
        row = np.zeros(T, int)
        before = float(probs(jnp.array([row]))[0, 2])
        for j in order:
            row[j] = TOKENS_T[j]
            after = float(probs(jnp.array([row]))[0, 2])
            scores[j] += (after - before) / math.factorial(T)
            before = after
    return scores


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_occlusion_leaves_one_out(batch_size):
    got = analysis.occlusion_scores(
        with_interaction, TOKENS_T, target=2, replacement=0, batch_size=batch_size
    )
    whole = with_interaction(TOKENS_T[None])[0, 2]
    for j in range(T):
        without = with_interaction(TOKENS_T.at[j].set(0)[None])[0, 2]
        assert got[j] == pytest.approx(float(whole - without), abs=1e-6)


def test_lime_finds_the_weights_of_an_additive_model():
    got = analysis.lime_scores(
        additive, TOKENS_T, target=2, replacement=0, key=KEY, ridge=1e-9
    )
    np.testing.assert_allclose(got, shapley(additive), atol=1e-4)
    np.testing.assert_allclose(got, WEIGHT_T, atol=1e-4)


def test_lime_is_the_weighted_ridge_regression_of_its_definition():
    seen = []

    def probs(tokens_BT):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), tokens_BT)
        return with_interaction(tokens_BT)

    got = analysis.lime_scores(
        probs, TOKENS_T, target=2, replacement=0, key=KEY, n_samples=40,
        kernel_width=0.5, ridge=0.01, batch_size=40,
    )  # fmt: skip
    jax.effects_barrier()
    z = (np.concatenate(seen) != 0).astype(float)
    assert z.shape == (41, T) and (z[:1] == 1).all()
    assert set(z[1:].sum(1)) == {0, 1, 2, 3}
    y = np.asarray(with_interaction(jnp.array(z).astype(int)))[:, 2]
    weight = np.exp(-(((1 - np.sqrt(z.mean(1))) / 0.5) ** 2))
    from sklearn.linear_model import Ridge

    line = Ridge(alpha=0.01 * weight.sum()).fit(z, y, sample_weight=weight)
    np.testing.assert_allclose(got, line.coef_, atol=1e-5)


def test_perturbations_agree_with_shapley_about_the_first_token():
    """Both share the interaction that leaving one out counts twice."""
    exact = shapley(with_interaction)
    np.testing.assert_allclose(exact, [0.35, -0.1, 0.2, 0.05], atol=1e-6)
    for score in (analysis.occlusion_scores, analysis.lime_scores):
        options = {"target": 2, "replacement": 0}
        if score is analysis.lime_scores:
            options["key"] = KEY
        found = score(with_interaction, TOKENS_T, **options)
        assert found.argmax() == 0 and found.argmin() == 1


X_TD = jax.random.normal(jax.random.key(1), (T, D))
W_TDV = jax.random.normal(jax.random.key(2), (T, D, V))


def linear(x_TD):
    return jnp.einsum("td,tdv->v", x_TD, W_TDV)


def curved(x_TD):
    return jnp.tanh(linear(x_TD)) * 3


def test_gradients_equal_the_closed_form():
    """Of logits W x the gradient of log p(y) is W_y less the mean of W under p."""
    p_V = jax.nn.softmax(linear(X_TD))
    slope_TD = W_TDV[..., 2] - W_TDV @ p_V
    np.testing.assert_allclose(
        analysis.gradient_norm(linear, X_TD, target=2),
        np.linalg.norm(slope_TD, axis=1),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        analysis.gradient_times_input(linear, X_TD, target=2),
        (slope_TD * X_TD).sum(1),
        rtol=1e-4,
        atol=1e-6,
    )


def test_integrated_gradients_are_complete():
    base_TD = 0.1 * jnp.ones((T, D))
    got = analysis.integrated_gradients(curved, X_TD, target=1, baseline_TD=base_TD)
    rise = jax.nn.log_softmax(curved(X_TD))[1] - jax.nn.log_softmax(curved(base_TD))[1]
    assert abs(got.scores_T.sum() - rise) < 1e-3 and abs(got.gap) < 1e-3
    coarse = analysis.integrated_gradients(curved, X_TD, target=1, n_points=1)
    # The midpoint alone: the gradient in the middle of the path.
    middle = jax.grad(lambda x: jax.nn.log_softmax(curved(x))[1])(X_TD / 2)
    np.testing.assert_allclose(coarse.scores_T, (X_TD * middle).sum(1), rtol=1e-4)
    assert abs(coarse.gap) > 1e-2


def test_attention_by_hand():
    weights = np.zeros((2, 1, 3, 3))
    weights[0, 0] = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    weights[1, 0] = [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]
    given = jnp.array(weights, jnp.float32)
    np.testing.assert_allclose(analysis.attention_scores(given), [0.25, 0.75, 0])
    mixed = [0.5 * np.eye(3) + 0.5 * layer[0] for layer in weights]
    for query in (0, 1, 2):
        np.testing.assert_allclose(
            analysis.attention_rollout(given, query=query), (mixed[1] @ mixed[0])[query]
        )
    plain = analysis.attention_rollout(given, residual=0.0)
    np.testing.assert_allclose(plain, (weights[1, 0] @ weights[0, 0])[2])


ONES_T = jnp.ones(T)


def test_faithfulness_at_its_ends():
    lost = float(
        np.sqrt(
            (
                (
                    np.sqrt(jax.nn.softmax(curved(X_TD)))
                    - np.sqrt(jax.nn.softmax(curved(0 * X_TD)))
                )
                ** 2
            ).sum()
            / 2
        )
    )
    for importance_T, kept, gone in ((ONES_T, 1.0, lost), (0 * ONES_T, 1 - lost, 0.0)):
        options = {"importance_T": importance_T, "key": KEY}
        got = analysis.soft_sufficiency(curved, X_TD, **options)
        assert got == pytest.approx(kept, abs=1e-5)
        got = analysis.soft_comprehensiveness(curved, X_TD, **options)
        assert got == pytest.approx(gone, abs=1e-5)
        got = analysis.normalised_sufficiency(curved, X_TD, **options)
        assert got == pytest.approx(float(importance_T[0]), abs=1e-5)
        got = analysis.normalised_comprehensiveness(curved, X_TD, **options)
        assert got == pytest.approx(float(importance_T[0]), abs=1e-5)


def test_the_right_tokens_are_more_faithful_than_others():
    def first_alone(x_TD):
        return 3 * jnp.append(x_TD[0], x_TD[0, :2])

    right, wrong = jnp.array([1.0, 0, 0, 0]), jnp.array([0, 1.0, 1.0, 1.0])
    for measure in (
        analysis.soft_sufficiency,
        analysis.soft_comprehensiveness,
        analysis.normalised_sufficiency,
        analysis.normalised_comprehensiveness,
    ):
        good, bad = (
            measure(first_alone, X_TD, importance_T=q, key=KEY) for q in (right, wrong)
        )
        assert good > bad + 0.05


def test_a_model_that_ignores_its_embeddings_has_no_normalised_value():
    def same(x_TD):
        return jnp.arange(5.0) + 0 * x_TD.sum()

    options = {"importance_T": ONES_T, "key": KEY}
    assert jnp.isnan(analysis.normalised_sufficiency(same, X_TD, **options))
    assert jnp.isnan(analysis.normalised_comprehensiveness(same, X_TD, **options))


def test_ranks_are_scipys():
    scores_T = jnp.array([0.5, -2.0, 0.0, 2.0, 0.1])
    want = (stats.rankdata(abs(scores_T)) - 1) / 4
    np.testing.assert_allclose(analysis.rank_scores(scores_T), want)
    # Scores without an order mask a half, as scores with one do on average.
    assert (analysis.rank_scores(jnp.ones(4)) == 0.5).all()
    unknown = analysis.rank_scores(jnp.array([1.0, jnp.nan, 3.0]))
    np.testing.assert_allclose(unknown, [0.5, 0.0, 1.0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analysis.gradient_norm(linear, X_TD, target=V), "target=5"),
        (lambda: analysis.gradient_times_input(linear, X_TD[:0], target=0), "x_TD"),
        (
            lambda: analysis.integrated_gradients(linear, X_TD, target=0, n_points=0),
            "n_points=0",
        ),
        (
            lambda: analysis.attention_rollout(
                jnp.ones((1, 1, 2, 2)) / 2, residual=1.0
            ),
            "residual=1",
        ),
        (lambda: analysis.attention_rollout(jnp.ones((1, 1, 2, 3))), "weights_LHTS"),
        (lambda: analysis.attention_scores(jnp.ones((0, 1, 2, 2))), "weights_LHTS"),
        (lambda: analysis.attention_scores(jnp.ones((1, 1, 2, 2)), query=2), "query=2"),
        (
            lambda: analysis.occlusion_scores(
                additive, TOKENS_T[:1], target=2, replacement=0
            ),
            "tokens_T",
        ),
        (
            lambda: analysis.occlusion_scores(
                additive, TOKENS_T, target=2, replacement=0, batch_size=0
            ),
            "batch_size=0",
        ),
        (
            lambda: analysis.lime_scores(
                additive, TOKENS_T, target=2, replacement=0, key=KEY, n_samples=1
            ),
            "n_samples=1",
        ),
        (
            lambda: analysis.lime_scores(
                additive, TOKENS_T, target=2, replacement=0, key=KEY, ridge=0.0
            ),
            "ridge=0",
        ),
        (
            lambda: analysis.soft_sufficiency(
                linear, X_TD, importance_T=2 * ONES_T, key=KEY
            ),
            "importance_T: must lie",
        ),
        (
            lambda: analysis.soft_sufficiency(
                linear, X_TD, importance_T=ONES_T, key=KEY, n_samples=0
            ),
            "n_samples=0",
        ),
    ],
)
def test_an_argument_out_of_range_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
