"""Co-teaching: who is trained on whose choice, and the limit of two plain steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.nn import MLP
from lostjax.steps import init_coteaching, make_coteaching_step

MODEL, TX = MLP((5, 3)), optax.sgd(0.1, momentum=0.9)


def losses_of(params, batch):
    x_BM, labels_B = batch
    logits_BV = MODEL.apply({"params": params}, x_BM)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BV, labels_B)


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    x_2BM = jnp.asarray(generator.normal(size=(2, 6, 4)), jnp.float32)
    labels_2B = jnp.asarray(generator.integers(3, size=(2, 6)))
    keys = jax.random.split(jax.random.key(0))
    params = jax.vmap(lambda key: MODEL.init(key, x_2BM[0])["params"])(keys)
    return init_coteaching(params, TX), (x_2BM, labels_2B)


def of(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_same(ours, theirs, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), ours, theirs)


def plain(params, batch, rows):
    """Descend the mean loss of some rows once."""
    some = jax.tree.map(lambda leaf: leaf[rows], batch)
    grads = jax.grad(lambda params: losses_of(params, some).mean())(params)
    updates, _ = TX.update(grads, TX.init(params), params)
    return optax.apply_updates(params, updates)


def test_each_network_is_trained_on_the_others_choice_of_the_others_batch(problem):
    state, batch = problem
    step = jax.jit(make_coteaching_step(losses_of, TX, keep=0.5))
    after, metrics = step(state, batch)
    for taught, teacher in ((0, 1), (1, 0)):
        theirs = of(batch, teacher)
        scores_B = np.asarray(losses_of(of(state.params, teacher), theirs))
        rows = np.argsort(scores_B)[:3]
        expected = plain(of(state.params, taught), theirs, rows)
        assert_same(of(after.params, taught), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            metrics["picked"][teacher], scores_B[rows].mean(), rtol=1e-5
        )


def test_the_share_may_fall_and_is_at_least_one_example(problem):
    state, batch = problem
    scores = jax.vmap(losses_of)(state.params, batch)

    def picked(keep, at):
        step = jax.jit(make_coteaching_step(losses_of, TX, keep=keep))
        return step(state._replace(step=jnp.int32(at)), batch)[1]["picked"]

    falling = optax.linear_schedule(1.0, 0.01, 10)
    np.testing.assert_allclose(picked(falling, 0), scores.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(picked(falling, 10), scores.min(axis=1), rtol=1e-5)
    best = jnp.sort(scores, axis=1)[:, :4].mean(axis=1)
    np.testing.assert_allclose(picked(4 / 6, 0), best, rtol=1e-5)


def test_what_is_picked_by_may_be_another_loss(problem):
    state, batch = problem
    step = make_coteaching_step(
        losses_of, TX, keep=1 / 6, score_of=lambda params, batch: -batch[0][:, 0]
    )
    after, _ = jax.jit(step)(state, batch)
    row = int(jnp.argmax(batch[0][1, :, 0]))
    expected = plain(of(state.params, 0), of(batch, 1), np.array([row]))
    assert_same(of(after.params, 0), expected, rtol=1e-5, atol=1e-6)


def test_a_network_that_diverged_stays_visible(problem):
    state, batch = problem
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.params)
    step = make_coteaching_step(losses_of, TX, keep=0.5)
    _, metrics = jax.jit(step)(state._replace(params=broken), batch)
    assert np.isnan(metrics["picked"][0]) and np.isnan(metrics["loss"][0])


def test_mistakes_are_named(problem):
    state, batch = problem
    for keep in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"keep=.*: must lie in \(0, 1\]"):
            make_coteaching_step(losses_of, TX, keep=keep)
    with pytest.raises(ValueError, match="batch: every leaf must have a first axis"):
        make_coteaching_step(losses_of, TX, keep=1.0)(state, (batch[0][0], batch[1]))
    with pytest.raises(ValueError, match=r"params: first axes \[\(4,\)\], must all"):
        init_coteaching({"w": jnp.zeros((4, 3))}, TX)
