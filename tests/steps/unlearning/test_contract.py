"""Steps that forget: pure, traced once, restorable; plain descent in the limit."""

from functools import cache

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import losses, nn, optim, steps

pytestmark = pytest.mark.newest
MODEL, TX = nn.MLP((5, 3)), optax.sgd(0.1, momentum=0.9)
RNG = np.random.default_rng(0)
X_BM = jnp.asarray(RNG.uniform(size=(6, 4)), jnp.float32)
LABELS_B = jnp.asarray(RNG.integers(3, size=6))
PARAMS = MODEL.init(jax.random.key(0), X_BM)["params"]
BATCH = steps.ForgetBatch((X_BM[:2], LABELS_B[:2]), (X_BM[2:], LABELS_B[2:]))
SIGNAL_N = jnp.linspace(0.99, 0.01, 10)
NOISY = steps.DiffusionBatch(
    X_BM[:2],
    LABELS_B[:2],
    (LABELS_B[:2] + 1) % 3,
    X_BM[2:],
    LABELS_B[2:],
    jax.random.key(3),
)


def cross_entropy(params, examples):
    x_BM, labels_B = examples
    return losses.next_token_loss(MODEL.apply({"params": params}, x_BM), labels_B)


def ascent(params, examples):
    return -cross_entropy(params, examples)


def predict(params, x_BM, t_B, labels_B):
    """A linear model of noise, by label and time."""
    return x_BM @ params["w"] + params["label"][labels_B] + params["time"][t_B]


NOISE_PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32),
    "label": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
    "time": jnp.zeros((10, 4)),
}


def settle(params, start, step):
    return steps.soft_threshold(params, start, share=0.5 / (1 + step))


MASK = optim.saliency_mask(jax.tree.map(jnp.square, PARAMS), 0.4)
WAYS = {
    "forget": (
        steps.make_forget_step(ascent, TX),
        steps.init_unlearning(PARAMS, TX),
        BATCH,
    ),
    "forget and retain": (
        steps.make_forget_step(
            ascent, TX, retain_losses=cross_entropy, retain_weight=0.5
        ),
        steps.init_unlearning(PARAMS, TX),
        BATCH,
    ),
    "settled": (
        steps.make_forget_step(ascent, TX, settle=settle),
        steps.init_unlearning(PARAMS, TX, start=PARAMS),
        BATCH,
    ),
    "diffusion": (
        steps.make_diffusion_forget_step(
            predict, TX, signal_N=SIGNAL_N, retain_weight=0.1
        ),
        steps.init_unlearning(NOISE_PARAMS, TX),
        NOISY,
    ),
}
every_way = pytest.mark.parametrize("name", WAYS)


@cache
def run(name):
    """Do two steps on one batch, and the first again; count traces."""
    step, start, batch = WAYS[name]
    traces = []

    @jax.jit
    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    first, again = counted(start, batch), counted(start, batch)
    return first, again, counted(first[0], batch), len(traces)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@every_way
def test_a_step_is_pure_and_traced_once_and_its_state_restorable(name):
    first, again, (state, metrics), traces = run(name)
    np.testing.assert_array_equal(ravel(first), ravel(again))
    assert traces == 1 and int(state.step) == 2
    start = WAYS[name][1]
    describe = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state)
    assert describe == jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), start)
    assert all(np.shape(each) == () for each in metrics.values())
    assert np.any(ravel(state.params) != ravel(start.params))


def descend(objective, params):
    """Two steps of plain descent."""

    @jax.jit
    def run(params):
        state = TX.init(params)
        for _ in range(2):
            updates, state = TX.update(jax.grad(objective)(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(params)


def test_forgetting_is_descent_of_the_weighted_sum():
    def both(params):
        kept = jnp.mean(cross_entropy(params, BATCH.retain))
        return jnp.mean(ascent(params, BATCH.forget)) + 0.5 * kept

    (_, metrics), _, (state, _), _ = run("forget and retain")
    np.testing.assert_allclose(
        ravel(state.params), ravel(descend(both, PARAMS)), rtol=1e-5, atol=1e-6
    )
    known = jnp.mean(cross_entropy(PARAMS, BATCH.forget))
    np.testing.assert_allclose(metrics["forget"], -known, rtol=1e-6)


def test_diffusion_forgets_by_its_own_answer_to_another_label():
    """The target does not move: what is asked for instead keeps its meaning."""
    (state, _), *_ = run("diffusion")
    before, after = NOISE_PARAMS["label"], state.params["label"]
    step = steps.make_diffusion_forget_step(
        predict, TX, signal_N=SIGNAL_N, retain_weight=0.0
    )
    batch = NOISY._replace(
        forget_labels=jnp.zeros(2, int), other_labels=jnp.ones(2, int)
    )
    alone, metrics = jax.jit(step)(steps.init_unlearning(NOISE_PARAMS, TX), batch)
    moved = alone.params["label"] - before
    assert np.all(moved[1:] == 0)
    # Half the squared distance's slope, mean over entries: towards the other label.
    gap = before[1] - before[0]
    np.testing.assert_allclose(moved[0], 0.1 * 2 * gap / gap.size, rtol=1e-4)
    np.testing.assert_allclose(metrics["forget"], np.mean(gap**2), rtol=1e-4)
    assert np.any(after != before)


def test_a_mask_at_the_end_of_the_chain_freezes_the_others():
    tx = optax.chain(optax.adamw(0.1), optim.mask_updates(MASK))
    step = jax.jit(steps.make_forget_step(ascent, tx))
    state = steps.init_unlearning(PARAMS, tx)
    for _ in range(5):
        state, _ = step(state, BATCH)
    before, after, kept = map(ravel, (PARAMS, state.params, MASK))
    np.testing.assert_array_equal(before != after, kept & (before != after))
    assert np.any(before != after)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_least_changed_return_and_the_others_come_nearer(share):
    rng = np.random.default_rng(2)
    start = {"a": rng.normal(size=7).astype(np.float32), "b": np.float32([1.0, 2, 3])}
    moved = jax.tree.map(
        lambda x: x + rng.normal(size=x.shape).astype(np.float32), start
    )
    got = jax.jit(steps.soft_threshold)(moved, start, share=share)
    before, change = ravel(start), ravel(moved) - ravel(start)
    k = round(share * 10)
    returned = np.argsort(np.abs(change))[:k]
    level = np.sort(np.abs(change))[k - 1] if k else 0
    expected = before + np.sign(change) * np.maximum(np.abs(change) - level, 0)
    np.testing.assert_allclose(ravel(got), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ravel(got)[returned], before[returned])


def test_random_labels_are_uniform_and_other_labels_are_never_true():
    true_B = jnp.arange(3000) % 3
    drawn = steps.random_labels(true_B, jax.random.key(0), n_classes=3)
    others = steps.other_labels(true_B, jax.random.key(0), n_classes=3)
    for labels in (drawn, others):
        assert labels.shape == true_B.shape and labels.dtype == true_B.dtype
        shares = np.bincount(labels, minlength=3) / 3000
        np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    assert 0.25 < np.mean(drawn == true_B) < 0.42
    assert not np.any(others == true_B)
    np.testing.assert_allclose(np.mean((others - true_B) % 3 == 1), 0.5, atol=0.04)
    again = steps.random_labels(true_B, jax.random.key(1), n_classes=3)
    assert np.any(again != drawn)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="retain_weight=-1: must be 0 or positive"):
        steps.make_forget_step(ascent, TX, retain_weight=-1)
    with pytest.raises(ValueError, match="retain_weight=-1: must be 0 or positive"):
        steps.make_diffusion_forget_step(
            predict, TX, signal_N=SIGNAL_N, retain_weight=-1
        )
    with pytest.raises(ValueError, match="signal_N: must lie in"):
        steps.make_diffusion_forget_step(
            predict, TX, signal_N=2 * SIGNAL_N, retain_weight=1
        )
    with pytest.raises(ValueError, match="state: has no start"):
        steps.make_forget_step(ascent, TX, settle=settle)(
            steps.init_unlearning(PARAMS, TX), BATCH
        )
    with pytest.raises(ValueError, match="share=1.5: must lie in"):
        steps.soft_threshold(PARAMS, PARAMS, share=1.5)
    for draw in (steps.random_labels, steps.other_labels):
        with pytest.raises(ValueError, match="n_classes=1: must be 2 or more"):
            draw(LABELS_B, jax.random.key(0), n_classes=1)
    with pytest.raises(ValueError, match="labels: holds 2"):
        steps.other_labels(jnp.array([2]), jax.random.key(0), n_classes=2)
