"""Contrastive losses against optax, both limits of the temperature, and edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.analysis import relative_penalty
from lostjax.losses import info_nce_loss, simple_contrastive_loss

RNG = np.random.default_rng(0)
B, N, D = 6, 9, 4
X, Y = jnp.array(RNG.normal(size=(2, B, D)), jnp.float32)
QUEUE = jnp.array(RNG.normal(size=(N, D)), jnp.float32)


def unit(x):
    x = np.asarray(x, float)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


SIMILARITY = unit(X) @ unit(Y).T
# In one program each: op by op, each operation would compile.
info_nce = jax.jit(info_nce_loss, static_argnames="hard_share")
simple = jax.jit(simple_contrastive_loss, static_argnames="hard_share")


def test_info_nce_is_the_cross_entropy_of_the_similarities():
    expected = jax.jit(optax.losses.softmax_cross_entropy_with_integer_labels)(
        jnp.array(SIMILARITY / 0.3, jnp.float32), jnp.arange(B)
    )
    found = info_nce(X, Y, temperature=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_two_views_are_the_ntxent_of_optax():
    """Each anchor's negatives are then all others, of both views."""
    both = np.concatenate([X, Y])
    labels = jnp.tile(jnp.arange(B), 2)
    expected = jax.jit(lambda z: optax.losses.ntxent(z, labels, 0.5))(jnp.array(both))
    values = []
    for i in range(2 * B):
        other = (i + B) % (2 * B)
        rest = np.delete(both, [i, other], axis=0)
        one = both[i : i + 1], both[other : other + 1]
        values.append(info_nce(*one, temperature=0.5, negatives_ND=rest)[0])
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)


def test_a_cold_loss_is_the_hardest_negative_alone():
    t = 1e-3
    others = np.where(np.eye(B, dtype=bool), -np.inf, SIMILARITY)
    expected = np.maximum(others.max(-1) - np.diag(SIMILARITY), 0)
    np.testing.assert_allclose(t * info_nce(X, Y, temperature=t), expected, atol=1e-4)


def test_a_small_loss_keeps_its_digits():
    basis = jnp.eye(B)
    found = info_nce(basis, basis, temperature=0.05)
    np.testing.assert_allclose(found, (B - 1) * np.exp(-20), rtol=1e-5)


def test_a_hot_loss_counts_all_negatives_alike():
    t = 100.0
    rise = (SIMILARITY - np.diag(SIMILARITY)[:, None]).mean(-1)
    found = info_nce(X, Y, temperature=t) - np.float32(np.log(B))
    np.testing.assert_allclose(t * found, rise, atol=2e-3 + 1 / t)
    gradients = [
        jax.jit(jax.grad(lambda x, loss=loss: jnp.sum(loss(x))))(X)
        for loss in (
            lambda x: t * B / (B - 1) * info_nce_loss(x, Y, temperature=t),
            lambda x: simple_contrastive_loss(x, Y, weight=1 / (B - 1)),
        )
    ]
    np.testing.assert_allclose(*gradients, atol=0.02)


def test_the_penalty_is_each_negatives_share_of_the_gradient():
    t = 0.2
    vectors = np.concatenate([unit(Y[:1]), unit(QUEUE)])
    similarities = jnp.array(vectors @ unit(X)[0], jnp.float32)

    def loss(similarities):
        """The loss as one of similarities: of an anchor that is an axis."""
        rest = jnp.sqrt(1 - similarities**2)
        vectors = jnp.stack([similarities, rest], axis=-1)
        return info_nce_loss(
            jnp.array([[1.0, 0.0]]),
            vectors[:1],
            temperature=t,
            negatives_ND=vectors[1:],
        )[0]

    slope = np.abs(jax.jit(jax.grad(loss))(similarities))
    found = relative_penalty(similarities[1:], temperature=t)
    np.testing.assert_allclose(found, slope[1:] / slope[0], rtol=1e-3)
    np.testing.assert_allclose(slope[1:].sum(), slope[0], rtol=1e-4)


@pytest.mark.parametrize("share, kept", [(1e-6, 1), (0.3, 3), (1.0, N)])
def test_a_hard_share_keeps_the_most_similar_negatives(share, kept):
    found = info_nce(X, Y, temperature=0.5, negatives_ND=QUEUE, hard_share=share)
    negatives = np.sort(unit(X) @ unit(QUEUE).T, axis=-1)[:, N - kept :]
    own = np.diag(SIMILARITY)[:, None]
    expected = np.log(1 + np.exp((negatives - own) / 0.5).sum(-1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = simple(X, Y, weight=0.5, negatives_ND=QUEUE, hard_share=share)
    np.testing.assert_allclose(found, 0.5 * negatives.sum(-1) - own[:, 0], atol=1e-5)


def test_simple_loss_is_its_formula():
    own = np.diag(SIMILARITY)
    expected = 0.5 * (SIMILARITY.sum(-1) - own) - own
    np.testing.assert_allclose(simple(X, Y, weight=0.5), expected, atol=1e-6)
    expected = (unit(X) @ unit(QUEUE).T).sum(-1) - own
    np.testing.assert_allclose(simple(X, Y, negatives_ND=QUEUE), expected, atol=1e-6)


def test_a_batch_of_one_has_no_negatives():
    value, gradient = jax.jit(
        jax.value_and_grad(lambda x: info_nce_loss(x, Y[:1], hard_share=0.5)[0])
    )(X[:1])
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_allclose(simple(X[:1], Y[:1]), -SIMILARITY[0, 0], rtol=1e-5)


def test_a_zero_vector_is_similar_to_none_and_nan_shows():
    zero = X.at[0].set(0)
    of = jax.jit(jax.value_and_grad(lambda x: info_nce_loss(x, Y).mean()))
    value, gradient = of(zero)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.abs(gradient[1:]).max() < 100
    np.testing.assert_allclose(info_nce(zero, Y)[0], np.log(B), rtol=1e-6)
    found = info_nce(zero.at[0, 0].set(jnp.nan), Y, hard_share=0.5)
    assert np.isnan(found[0]) and not np.isnan(found[1:]).any()


def test_bad_input_is_named():
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="temperature="):
            info_nce_loss(X, Y, temperature=bad)
        with pytest.raises(ValueError, match="temperature="):
            relative_penalty(jnp.zeros(3), temperature=bad)
    for bad in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match="hard_share="):
            info_nce_loss(X, Y, hard_share=bad)
        with pytest.raises(ValueError, match="hard_share="):
            simple_contrastive_loss(X, Y, hard_share=bad)
    with pytest.raises(ValueError, match="similarities: no negatives"):
        relative_penalty(jnp.zeros((2, 0)), temperature=1.0)
