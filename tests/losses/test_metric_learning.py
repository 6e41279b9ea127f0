"""Few-shot losses: the authors' code, optax, and a neighbourhood counted by hand."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from lostjax import losses

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "authors.json").read_text())
X = jnp.array(GOLDEN["x"])
GROUPS = jnp.array(GOLDEN["groups"])
# In one program each: op by op, each operation would compile.
score = jax.jit(losses.set_icnn_score, static_argnames=("k", "n_candidates"))
triplet = jax.jit(losses.proto_triplet_loss)


def means():
    rows = np.asarray(X, float)
    return np.stack([rows[np.asarray(GROUPS) == group].mean(0) for group in range(4)])


def test_prototypes_are_class_means_and_logits_their_squared_distances():
    found = losses.prototypes(X, GROUPS, n_classes=4)
    np.testing.assert_allclose(found, means(), rtol=1e-5)
    of = jax.jit(losses.prototypical_logits)
    logits = of(X.reshape(4, 5, 3), found, temperature=2.0)
    expected = -cdist(X, means(), "sqeuclidean").reshape(4, 5, 4) / 2
    np.testing.assert_allclose(logits, expected, rtol=1e-4)


def test_proto_triplet_is_that_of_the_authors_code_and_of_optax():
    protos = jnp.array(means(), jnp.float32)
    found = triplet(X, GROUPS, prototypes_ND=protos)
    np.testing.assert_allclose(found.mean(), GOLDEN["proto_triplet"], rtol=1e-5)
    distances = cdist(X, means())
    distances[np.arange(20), np.asarray(GROUPS)] = np.inf
    expected = jax.jit(lambda *of: optax.losses.triplet_margin_loss(*of, margin=0.5))(
        X, protos[GROUPS], protos[distances.argmin(-1)]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_query_between_two_prototypes_costs_the_margin():
    queries = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = triplet(queries, jnp.array([0, 1, 0]), prototypes_ND=jnp.eye(2))
    np.testing.assert_allclose(found, [0, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["icnn"], ids=range(len(GOLDEN["icnn"])))
def test_icnn_score_is_that_of_the_authors_code(case):
    found = score(X, GROUPS, k=case["k"], n_candidates=case["n_candidates"])
    np.testing.assert_allclose(found, case["score"], rtol=1e-5)


def naive_icnn(x, groups, k, n_candidates):
    """The three terms, point by point, from scikit-learn's neighbours."""
    search = NearestNeighbors(n_neighbors=n_candidates).fit(x)
    distances, at = search.kneighbors()  # without the points themselves
    distances = np.sqrt(distances**2 + 1e-6)
    same, diff, gamma = [], [], []
    other = distances[:, :k][groups[at[:, :k]] != groups[:, None]]
    for d, near, own in zip(distances, groups[at], groups, strict=True):
        alike = near == own
        nearest = d[~alike].min() if (~alike).any() else np.inf
        ratio = d[:k] / nearest
        ratio = ratio / max(1, ratio.max())
        gamma.append(alike[:k].mean())
        if alike[:k].any():
            same.append(ratio[alike[:k]].mean())
        if not alike[:k].all():
            diff.append((d[:k] / other.max())[~alike[:k]].mean())
    apart = (1 - np.mean(same) if same else 1) + (np.mean(diff) if diff else 1)
    return apart / 4 + np.mean(gamma) / 2


@pytest.mark.parametrize("k, n_candidates", [(1, 1), (2, 19)])
def test_icnn_score_is_its_formula(k, n_candidates):
    found = score(X, GROUPS, k=k, n_candidates=n_candidates)
    expected = naive_icnn(np.asarray(X), np.asarray(GROUPS), k, n_candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_separated_classes_score_1_and_a_rise_of_the_score_separates_them():
    centres = 100.0 * jnp.eye(3)[jnp.arange(18) % 3]
    labels = jnp.arange(18) % 3
    apart = centres + 1e-3 * X[:18]
    assert score(apart, labels, k=4) > 0.99
    before = score(X[:18], labels, k=4)
    gradient = jax.jit(jax.grad(lambda x: losses.set_icnn_loss(x, labels)))(X[:18])
    assert score(X[:18] - 0.05 * gradient, labels, k=4) > before


@pytest.mark.parametrize("kind", ["one class", "no class twice", "one point", "two"])
def test_a_set_without_neighbours_of_either_kind_is_finite(kind):
    x = jnp.zeros((6, 3)) if kind == "one point" else X[:6]
    labels = {
        "one class": jnp.full(6, 7),
        "no class twice": -jnp.arange(6),
        "one point": jnp.arange(6) % 2,
        "two": jnp.array([0, 0, 1, 1, 1, 1]),
    }[kind]
    of = jax.jit(jax.value_and_grad(lambda x: losses.set_icnn_loss(x, labels, k=2)))
    value, gradient = of(x)
    np.testing.assert_allclose(value, -np.log(score(x, labels, k=2)), atol=1e-6)
    assert 0 <= value < 1.5 and np.isfinite(gradient).all()
    if kind == "one class":
        assert value == 0
    assert np.isnan(of(x.at[0, 0].set(jnp.nan))[0])


def test_points_that_coincide_are_each_others_neighbours():
    """Dropping the nearest neighbour instead of the point itself would miss this."""
    x = jnp.array([[0.0], [0.0], [5.0], [5.0]])
    assert score(x, jnp.array([0, 0, 1, 1]), k=1) > 0.99


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="labels_B: class 2 has no example"):
        losses.prototypes(X, GROUPS.at[GROUPS == 2].set(1), n_classes=4)
    with pytest.raises(ValueError, match=r"labels_B: holds 3, must lie in \[0, 3\)"):
        losses.prototypes(X, GROUPS, n_classes=3)
    traced = jax.jit(lambda x, y: losses.prototypes(x, y, n_classes=5))
    found = traced(X, GROUPS.at[0].set(-1))
    assert np.isnan(found[4]).all() and not np.isnan(found[:4]).any()
    np.testing.assert_allclose(found[1], means()[1], rtol=1e-5)
    protos = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="margin=-1"):
        losses.proto_triplet_loss(X, GROUPS % 2, prototypes_ND=protos, margin=-1.0)
    with pytest.raises(ValueError, match=r"prototypes_ND: 1 class\(es\)"):
        losses.proto_triplet_loss(X, GROUPS * 0, prototypes_ND=protos[:1])
    with pytest.raises(ValueError, match=r"labels: holds 2, must lie in \[0, 2\)"):
        losses.proto_triplet_loss(X, GROUPS, prototypes_ND=protos)
    assert np.isnan(triplet(X, GROUPS, prototypes_ND=protos)).sum() == 10
    with pytest.raises(ValueError, match="temperature=0"):
        losses.prototypical_logits(X, protos, temperature=0.0)
    for k in (0, 20):
        with pytest.raises(ValueError, match=rf"k={k}: must lie in \[1, 19\]"):
            losses.set_icnn_score(X, GROUPS, k=k)
    with pytest.raises(ValueError, match=r"n_candidates=3: must lie in \[4, 19\]"):
        losses.set_icnn_score(X, GROUPS, n_candidates=3)
