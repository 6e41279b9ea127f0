"""What a reader of a measurement expects, for each of ours.

One row a function, with a planted truth that it must find: to add one, add a row.
`test_every_public_name_has_a_row` fails until it has one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import analysis

pytestmark = pytest.mark.newest
CONSTANTS = {"LOGIT_LIMIT"}


class Row(NamedTuple):
    """A measurement, its arguments, and what is planted in them."""

    of: Callable[..., Any]
    given: Any
    truth: Any
    """What it must come to, as arrays or numbers of its result's structure."""
    bad: dict[str, Any]
    """One argument out of range; the error names it."""
    rtol: float = 1e-5
    atol: float = 1e-9
    covers: tuple[str, ...] = ()


def bowl(params):
    """A quadratic of curvature 2 a direction, with its minimum at 0."""
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def params():
    return {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}


RATES = [1e-3, 1e-2, 1e-1, 1.0]
GROWTH = analysis.LogitGrowth(0.5, math.log(2.0), 0.0)
WEIGHTS = {"w": np.array([[3.0, -1.0], [0.5, -2.0]]), "bias": np.array([0.1, 0.2])}
PLATEAU = analysis.EssentialSparsity(0.25, 0.2, False, 0.25, 0.25, 0.0, -0.2)
COUNTED = np.array([0, 1, 2, 0, 1, 2, 0])
COVARIANCE = np.array([[1.0, 0.6 * 2], [0.6 * 2, 4.0]])  # a correlation of 0.6
# Of a prompt [1, 1, 1] only the token at 1 counts: logits of 5 if it is there.
PROMPT = jnp.ones(3, jnp.int32)
X = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
MAPS = jnp.tile(jnp.array([[1.0, 0.0], [0.25, 0.75]]), (2, 3, 1, 1))


def probs(tokens_BT):
    kept_B1 = tokens_BT[:, 1:2] == 1
    return jnp.where(kept_B1, jnp.array([0.1, 0.9]), jnp.array([0.9, 0.1]))


def logits(x_TD):
    """Logits of odds exp(2 x_01): the slope of log p(0) is 2 p(1)."""
    return jnp.stack([x_TD[0, 1], -x_TD[0, 1]])


LOST = 2 / (1 + math.exp(2 * 2))  # twice p(1) of an x_01 of 2
PATH = math.log(2) - math.log1p(math.exp(-4))  # log p(0) at x less that at 0
# Hellinger's distance of (1 - p, p) and (1 / 2, 1 / 2).
APART = math.sqrt(1 - (math.sqrt(LOST / 4) + math.sqrt((1 - LOST / 2) / 2)))
READ = {"target": 1, "tokens_T": PROMPT}
# Two concepts that share no channel, and activations that are made of them.
CONCEPTS = jnp.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
MADE = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
MASKED = {"x_TD": X, "importance_T": jnp.ones(3), "key": jax.random.key(0)}
BAD_MASK = {"importance_T": jnp.full(3, 2.0)}
ROWS = {
    "reagent": Row(
        lambda **given: analysis.reagent(probs, **given).scores_T.argmax(),
        READ | {"sampler": analysis.uniform_sampler(2), "key": jax.random.key(0)},
        1,
        {"target": 2},
        covers=("reagent", "ReagentResult"),
    ),
    # Of two tokens the only other one.
    "uniform sampler": Row(
        lambda vocab_size: analysis.uniform_sampler(vocab_size)(
            jax.random.key(0), PROMPT
        ),
        {"vocab_size": 2},
        np.zeros(3),
        {"vocab_size": 1},
        covers=("uniform_sampler",),
    ),
    "unigram sampler": Row(
        lambda **given: analysis.unigram_sampler(**given)(jax.random.key(0), PROMPT),
        {"train_tokens": np.array([0, 1]), "vocab_size": 2},
        np.zeros(3),
        {"vocab_size": 1},
        covers=("unigram_sampler",),
    ),
    "n-gram sampler": Row(
        lambda **given: analysis.ngram_sampler(tokens_T=np.ones(3, int), **given)(
            jax.random.key(0), PROMPT
        ),
        {"train_tokens": np.array([0, 1]), "vocab_size": 2, "smoothing": 1.0},
        np.zeros(3),
        {"smoothing": 0.0},
        covers=("ngram_sampler",),
    ),
    "host": Row(
        lambda tokens_BT: analysis.host_probs(np.asarray, vocab_size=2)(tokens_BT),
        {"tokens_BT": jnp.array([[0.25, 0.75]])},
        np.array([[0.25, 0.75]]),
        {},
        covers=("host_probs",),
    ),
    "occlusion": Row(
        lambda **given: analysis.occlusion_scores(probs, **given),
        READ | {"replacement": 0},
        np.array([0, 0.8, 0]),
        {"target": -1},
        covers=("occlusion_scores",),
    ),
    "LIME": Row(
        lambda **given: analysis.lime_scores(probs, **given) / 0.8,
        READ | {"replacement": 0, "key": jax.random.key(0), "ridge": 1e-9},
        np.array([0, 1, 0]),
        {"ridge": 0.0},
        atol=1e-4,  # of a ridge and a solve in float32
        covers=("lime_scores",),
    ),
    "gradient norm": Row(
        lambda **given: analysis.gradient_norm(logits, **given),
        {"x_TD": X, "target": 0},
        np.array([LOST, 0, 0]),
        {"target": 2},
        covers=("gradient_norm",),
    ),
    "gradient x input": Row(
        lambda **given: analysis.gradient_times_input(logits, **given),
        {"x_TD": X, "target": 0},
        np.array([2 * LOST, 0, 0]),
        {"target": 2},
        covers=("gradient_times_input",),
    ),
    "integrated gradients": Row(
        lambda **given: analysis.integrated_gradients(logits, **given).scores_T,
        {"x_TD": X, "target": 0},
        np.array([PATH, 0, 0]),
        {"n_points": 0},
        covers=("integrated_gradients", "PathScores"),
    ),
    "attention": Row(
        analysis.attention_scores,
        {"weights_LHTS": MAPS, "query": -1},
        np.array([0.25, 0.75]),
        {"query": 2},
        covers=("attention_scores",),
    ),
    # (I + A)^2 / 4, the last row of which is below.
    "rollout": Row(
        analysis.attention_rollout,
        {"weights_LHTS": MAPS, "residual": 0.5},
        np.array([1 - 0.875**2, 0.875**2]),
        {"residual": 1.0},
        covers=("attention_rollout",),
    ),
    "sufficiency": Row(
        lambda **given: analysis.soft_sufficiency(logits, **given),
        MASKED,
        1.0,
        BAD_MASK,
        covers=("soft_sufficiency",),
    ),
    "comprehensiveness": Row(
        lambda **given: analysis.soft_comprehensiveness(logits, **given),
        MASKED,
        APART,
        BAD_MASK,
        covers=("soft_comprehensiveness",),
    ),
    "normalised sufficiency": Row(
        lambda **given: analysis.normalised_sufficiency(logits, **given),
        MASKED,
        1.0,
        BAD_MASK,
        covers=("normalised_sufficiency",),
    ),
    "normalised comprehensiveness": Row(
        lambda **given: analysis.normalised_comprehensiveness(logits, **given),
        MASKED,
        1.0,
        BAD_MASK,
        covers=("normalised_comprehensiveness",),
    ),
    "ranks": Row(
        analysis.rank_scores,
        {"scores_T": jnp.array([1.0, -4.0, 0.0])},
        np.array([0.5, 1, 0]),
        {},
        covers=("rank_scores",),
    ),
    # |g| = 10: r |g| + r^2, of a curvature of 2.
    "ascent_rise": Row(
        lambda radius, **rest: analysis.ascent_rise(bowl, radius=radius, **rest),
        {"params": params(), "radius": 0.5},
        0.5 * 10 + 0.25,
        {"radius": 0.0},
        covers=("ascent_rise",),
    ),
    "random_rise": Row(
        lambda radius, **rest: analysis.random_rise(bowl, radius=radius, **rest),
        {"params": params(), "radius": 0.5, "key": jax.random.key(0)},
        0.25,
        {"radius": -1.0},
        rtol=1e-3,  # differences of losses of 25
        covers=("random_rise",),
    ),
    "sensitivity": Row(
        analysis.learning_rate_sensitivity,
        {
            "learning_rates": RATES,
            "losses": [2.0, 1.0, 3.0, math.nan],
            "initial_loss": 5,
        },
        analysis.Sensitivity((1 + 0 + 2 + 4) / 4, 1.0, 1e-2),
        {"learning_rates": [1e-3, -1.0, 1e-1, 1.0]},
        covers=("learning_rate_sensitivity", "Sensitivity"),
    ),
    "growth": Row(
        analysis.fit_logit_growth,
        {"n_parameters": [1e4, 1e6, 1e8], "max_logits": [200.0, 2e3, 2e4]},
        GROWTH,
        {"max_logits": [1.0, 0.0, 2.0]},
        covers=("fit_logit_growth", "LogitGrowth"),
    ),
    "max logit": Row(
        analysis.predict_max_logit,
        {"growth": GROWTH, "n_parameters": 1e6},
        2e3,
        {"n_parameters": 0.0},
        covers=("predict_max_logit",),
    ),
    # Each id is followed by one other: a bigram's discount alone goes to the rest.
    "ngram": Row(
        analysis.predict_ngram,
        {
            "train_tokens": COUNTED,
            "heldout_tokens": np.array([0, 1, 2]),
            "order": 2,
            "vocab_size": 3,
            "discount": 0.5,
        },
        np.full(2, 0.75 + 0.25 / 3),
        {"discount": 1.0},
        covers=("predict_ngram",),
    ),
    "text": Row(
        lambda **given: analysis.score_text(["abc"], ["ab"], **given)[:1],
        {
            "train_tokens": np.array([3, 0, 1, 2, 3]),
            "heldout_tokens": np.array([3, 0, 1, 3]),
            "vocab_size": 4,
        },
        (2 * 3 / 2,),  # log2 4 bits for three tokens, over two bytes
        {"vocab_size": 3},
        covers=("score_text", "TextBaselines"),
    ),
    "relative penalty": Row(
        analysis.relative_penalty,
        {"similarities": jnp.array([[0.5, 0.5, 0.1]]), "temperature": 1e-2},
        np.array([[0.5, 0.5, 0.5 * math.exp(-40)]]),
        {"temperature": 0.0},
        covers=("relative_penalty",),
    ),
    # One is precise, one is the prior, and one is used by the first example alone.
    "variable types": Row(
        analysis.variable_types,
        {"variances_BZ": np.array([[0.01, 1.0, 0.01], [0.02, 0.95, 1.0]])},
        np.array([2, 0, 1]),
        {"variances_BZ": np.array([[0.01, -1.0], [0.02, -0.95]])},
        covers=("variable_types", "VariableType"),
    ),
    "total correlation": Row(
        analysis.gaussian_total_correlation,
        {"covariance_ZZ": COVARIANCE},
        -0.5 * math.log(1 - 0.6**2),
        {"covariance_ZZ": np.array([[1.0, 2.0], [2.0, 1.0]])},
        covers=("gaussian_total_correlation",),
    ),
    # Eigenvalues of D S solve x^2 - 17 x + 16 * 0.64 = 0.
    "wasserstein": Row(
        analysis.gaussian_wasserstein_correlation,
        {"covariance_ZZ": COVARIANCE},
        2 * (5 - math.sqrt(17 + 2 * math.sqrt(16 * 0.64))),
        {"covariance_ZZ": np.ones((2, 3))},
        covers=("gaussian_wasserstein_correlation",),
    ),
    "effective rank": Row(
        analysis.effective_rank,
        {"covariance_ZZ": np.diag([2.0, 2.0, 0.0])},
        2.0,
        {"covariance_ZZ": np.array([[math.nan]])},
        covers=("effective_rank",),
    ),
    "mutual information": Row(
        analysis.mutual_information_matrix,
        {"z_BZ": np.array([[0, 0, 0], [0, 1, 0], [9, 0, 9], [9, 1, 9]]), "bins": 2},
        math.log(2) * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        {"bins": 1},
        covers=("mutual_information_matrix",),
    ),
    "drop passive": Row(
        analysis.drop_passive,
        {"z_BZ": np.array([[1.0, 2.0, 3.0]]), "types_Z": np.array([2, 0, 1])},
        np.array([[1.0, 3.0]]),
        {"types_Z": np.array([0, 0])},
        covers=("drop_passive",),
    ),
    "representations": Row(
        lambda **given: {
            name: (pair.mean[:2], pair.sampled.n_variables)
            for name, pair in analysis.compare_representations(**given).items()
            if name in ("all", "passive")
        },
        {
            "mean_BZ": np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0.0]]),
            "log_variance_BZ": np.log(np.full((4, 3), [1e-3, 1e-3, 1.0])),
            "key": jax.random.key(0),
        },
        {"all": ((3, 0.0), 3), "passive": ((1, math.nan), 1)},
        {"log_variance_BZ": np.full((4, 3), 1e3)},
        covers=("compare_representations", "LatentComparison", "LatentDependence"),
    ),
    "nmf": Row(
        lambda **given: analysis.nmf(**given).w_RM.sort(axis=0),
        {"a_BM": MADE @ CONCEPTS, "rank": 2, "tolerance": 0, "max_steps": 999},
        CONCEPTS.sort(axis=0),
        {"a_BM": -MADE @ CONCEPTS},
        atol=1e-6,  # float32
        covers=("nmf", "Factorisation"),
    ),
    "nnls": Row(
        analysis.nnls,
        {"a": jnp.array([[0.6, 0.8, -1.0], [-1.0, 0.0, 2.0]]), "w_RM": CONCEPTS},
        np.array([[1.0, 0.0], [0.0, 2.0]]),
        {"w_RM": -CONCEPTS},
        covers=("nnls",),
    ),
    # Variances of 1 / 12 and 9 / 12.
    "total sobol": Row(
        lambda **given: analysis.total_sobol(lambda x: x[:, 0] - 3 * x[:, 1], **given),
        {"n_inputs": 2, "n_designs": 1024},
        analysis.TotalSobol(np.array([0.1, 0.9]), 10 / 12),
        {"n_designs": 1000},
        rtol=0.01,  # of 1,024 points
        covers=("total_sobol", "TotalSobol"),
    ),
    "concept importance": Row(
        lambda **given: (
            analysis.concept_importance(
                lambda a_BM: a_BM @ jnp.array([1.0, 0.0, 0.0]), w_RM=CONCEPTS, **given
            ).importance_R
        ),
        {"u_BR": MADE[:1]},
        np.array([1.0, 0.0]),
        {"u_BR": -MADE},
        rtol=0.02,  # of 256 points
        covers=("concept_importance", "ConceptImportance"),
    ),
    # u_1 of an image is 10 times its second pixel: that pixel is the concept.
    "concept map": Row(
        lambda **given: analysis.concept_attribution_map(
            lambda x_PC: x_PC[:, 0] @ jnp.array([[0.6, 0.8, 0], [0, 0, 10]]), **given
        ),
        {"x": jnp.array([[1.0], [2.0]]), "w_RM": CONCEPTS, "concept": 1},
        np.array([0.0, 20.0]),
        {"concept": 2},
        covers=("concept_attribution_map",),
    ),
    "crops": Row(
        lambda **given: analysis.extract_crops(**given)[..., 0],
        {
            "images_BHWC": jnp.arange(12.0).reshape(1, 3, 4, 1),
            "size": 2,
            "stride": 2,
        },
        np.array([[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]]]),
        {"size": 4},
        covers=("extract_crops",),
    ),
    # The two strongest of four, which are both of one channel.
    "refinement": Row(
        lambda **given: analysis.refine_concept(lambda x: x, **given),
        {
            "crops": jnp.eye(4)[:, :3] * 2,
            "strength_B": jnp.array([0.0, 3.0, 0.0, 0.0]),
            "rank": 1,
        },
        (
            np.array([1]),
            np.array([[2.0]]),
            np.array([[0.0, 1.0, 0.0]]),
            0.0,
            2,
            True,
        ),
        {"quantile": 1.0},
        atol=1e-6,  # float32
        covers=("refine_concept", "SubConcepts"),
    ),
    "magnitude": Row(
        analysis.magnitude_mask,
        {"params": WEIGHTS, "sparsity": 0.5},
        {"w": np.array([[True, False], [False, True]]), "bias": True},
        {"sparsity": 1.0},
        covers=("magnitude_mask",),
    ),
    "n of m": Row(
        analysis.nm_mask,
        {"params": WEIGHTS, "keep": 1, "of": 2},
        {"w": np.array([[True, False], [False, True]]), "bias": True},
        {"keep": 0},
        covers=("nm_mask",),
    ),
    # Training the whole model makes 100 of the 3. Without the .5 the 3 becomes .01,
    # and in a round that did not rewind the 100 would become 1.33.
    "lottery": Row(
        lambda **given: [each.mask for each in analysis.lottery_masks(**given)],
        {
            "train": lambda params, mask: {
                **params,
                "w": jnp.where(params["w"] == 3, 100.0, params["w"])
                if params["w"][1, 0]
                else params["w"] % 2.99,
            },
            "rewound": {**WEIGHTS, "w": np.abs(WEIGHTS["w"])},
            "sparsities": [0.25, 0.5],
        },
        [
            {"w": np.array([[True, True], [False, True]]), "bias": True},
            {"w": np.array([[False, True], [False, True]]), "bias": True},
        ],
        {"sparsities": [0.5, 0.5]},
        covers=("lottery_masks", "LotteryRound"),
    ),
    "random": Row(
        lambda **given: analysis.sparsity_of(analysis.random_mask(**given)),
        {"params": WEIGHTS, "sparsity": 0.75, "key": jax.random.key(0)},
        0.75,
        {"sparsity": -0.1},
        covers=("random_mask", "sparsity_of"),
    ),
    # 2 x 2 has twice the (M + N) / (M N) of 4 x 4: 4 + 16 weights keep .5 of 20.
    "erk": Row(
        analysis.erk_densities,
        {"params": {"w": np.ones((2, 2)), "v": np.ones((4, 4))}, "sparsity": 0.5},
        {"w": 10 / 12, "v": 5 / 12},
        {"sparsity": 1},
        covers=("erk_densities",),
    ),
    "erk mask": Row(
        lambda **given: jax.tree.map(np.sum, analysis.erk_mask(**given)),
        {
            "params": {"w": np.ones((2, 2)), "v": np.ones((4, 4))},
            "sparsity": 0.5,
            "key": jax.random.key(0),
        },
        {"w": 3, "v": 7},
        {"sparsity": 1},
        covers=("erk_mask",),
    ),
    "apply mask": Row(
        analysis.apply_mask,
        {
            "params": WEIGHTS,
            "mask": {"w": WEIGHTS["w"] > 0, "bias": True},
        },
        {"w": np.array([[3.0, 0.0], [0.5, 0.0]]), "bias": WEIGHTS["bias"]},
        {},
        covers=("apply_mask",),
    ),
    "mask cosine": Row(
        analysis.mask_cosine,
        {
            "first": {"w": np.array([True, True]), "bias": True},
            "second": {"w": np.array([True, False]), "bias": True},
        },
        1 / math.sqrt(2),
        {"second": {"w": np.array([True])}},
        covers=("mask_cosine",),
    ),
    "near zero": Row(
        analysis.near_zero_count,
        {"params": WEIGHTS, "tolerance": 1},
        analysis.NearZero(2, 4),
        {"tolerance": -1},
        covers=("near_zero_count", "NearZero"),
    ),
    # A plateau up to .2, then a fall by .02 in .1: 1 % is lost half way.
    "plateau": Row(
        analysis.essential_sparsity,
        {"sparsities": [0, 0.1, 0.2, 0.3], "scores": [1, 1, 1, 0.98]},
        PLATEAU,
        {"tolerance": 0},
        covers=("essential_sparsity", "EssentialSparsity"),
    ),
    "ascend": Row(
        analysis.ascend,
        {"params": params(), "gradients": params(), "radius": 1.0},
        {"a": np.array([3.6, 0.0]), "b": np.array([[4.8]])},
        {},
        covers=("ascend",),
    ),
    "tensor_rms": Row(
        analysis.tensor_rms,
        {"tree": params(), "leading_axes": 0},
        {"a": math.sqrt(9 / 2), "b": 4.0},
        {"leading_axes": 3},
        covers=("tensor_rms",),
    ),
}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def test_every_public_name_has_a_row():
    covered = {name for row in ROWS.values() for name in row.covers}
    assert covered == set(analysis.__all__) - CONSTANTS


@every_row
def test_the_planted_truth_is_found(row):
    got = row.of(**row.given)
    jax.tree.map(
        lambda found, truth: np.testing.assert_allclose(
            found, truth, rtol=row.rtol, atol=row.atol
        ),
        jax.tree.leaves(got),
        jax.tree.leaves(row.truth),
    )


@every_row
def test_a_measurement_changes_nothing_that_it_is_given(row):
    before = jax.tree.map(
        np.array, [x for x in jax.tree.leaves(row.given) if is_read(x)]
    )
    first = jax.tree.leaves(row.of(**row.given))
    after = [x for x in jax.tree.leaves(row.given) if is_read(x)]
    jax.tree.map(np.testing.assert_array_equal, before, after)
    again = jax.tree.leaves(row.of(**row.given))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def is_read(leaf):
    return not (
        isinstance(leaf, jax.Array)
        and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.bad])
def test_an_argument_out_of_range_is_named(name):
    row = ROWS[name]
    (name,) = row.bad
    name = "heldout_tokens|train_tokens|vocab_size" if name == "vocab_size" else name
    with pytest.raises(ValueError, match=name):
        row.of(**row.given | row.bad)
