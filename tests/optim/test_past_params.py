"""Past parameters: the average by its recurrence, the copy by counting, the getter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.optim import get_past_params, track_lagged_params, track_past_params


def walk(track, n_steps, *, start=0.0, dtype=jnp.float32):
    """Let parameters walk by 1 a step; gives the past after every step."""
    tx = optax.chain(optax.sgd(1.0), track)
    params = {"w": jnp.full((3,), start, dtype)}
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for _ in range(n_steps):
        updates, state = update({"w": jnp.full((3,), -1.0, dtype)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(get_past_params(state)["w"][0]))
    return seen


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_is_that_of_the_parameters_after_the_update(decay):
    expected, average = [], 0.0
    for step in range(1, 8):
        average = decay * average + (1 - decay) * step
        expected.append(average)
    np.testing.assert_allclose(walk(track_past_params(decay), 7), expected, rtol=1e-5)


def test_the_lagged_copy_is_renewed_every_lag_steps():
    seen = walk(track_lagged_params(3), 8)
    assert seen == [0.0, 0.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0]
    assert walk(track_lagged_params(1), 3) == [1.0, 2.0, 3.0]


def test_updates_pass_unchanged():
    tx = track_past_params(0.9)
    params, updates = {"w": jnp.ones(3)}, {"w": jnp.arange(3.0)}
    passed, _ = tx.update(updates, tx.init(params), params)
    assert passed is updates


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("decay", [0.9, 0.9998])
def test_a_narrow_average_follows_the_float32_one(dtype, decay):
    """Rounded to nearest it would stand still at decay .9998."""
    goal = jnp.concatenate([jnp.linspace(-2, 2, 40), jnp.array([0.0])])
    start = jnp.concatenate([goal[:-1] + 0.3, jnp.array([0.0])])

    def average(dtype):
        tx = track_past_params(decay, dtype=dtype)
        zero = jnp.zeros_like(goal)

        def step(state, _):
            return tx.update(zero, state, goal)[1], None

        state, _ = jax.lax.scan(step, tx.init(start), length=5000)
        return get_past_params(state)

    narrow, wide = average(dtype), average(jnp.float32)
    assert narrow.dtype == dtype
    resolution = float(jnp.finfo(dtype).eps)
    error = jnp.abs(narrow.astype(jnp.float32) - wide) / jnp.maximum(jnp.abs(wide), 0.1)
    assert error.max() < 2 * resolution
    assert narrow[-1] == 0.0


def test_a_narrow_average_takes_half_the_bytes():
    params = {"w": jnp.zeros((8, 4))}
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(get_past_params(tx.init(params))))
        for tx in (track_past_params(0.9), track_past_params(0.9, dtype=jnp.bfloat16))
    ]
    assert sizes == [8 * 4 * 4, 8 * 4 * 2]


def test_the_first_past_is_a_copy_that_outlives_donated_parameters():
    tx, params = track_past_params(0.9), {"w": jnp.ones(3)}
    state = tx.init(params)
    jax.jit(lambda params: jax.tree.map(jnp.negative, params), donate_argnums=0)(params)
    np.testing.assert_array_equal(get_past_params(state)["w"], jnp.ones(3))


WRAPPERS = {
    "bare": lambda track: track,
    "chain": lambda track: optax.chain(optax.adam(0.1), optax.chain(track)),
    "multi_steps": lambda track: optax.MultiSteps(
        optax.chain(optax.sgd(1.0), track), 2
    ),
    "injected": lambda track: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(optax.sgd(learning_rate), track)
    )(learning_rate=0.1),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("track", [track_past_params(0.5), track_lagged_params(2)])
def test_the_getter_finds_the_past_in_any_nest(wrap, track):
    params = {"w": jnp.ones((2, 2))}
    past = get_past_params(wrap(track).init(params))
    np.testing.assert_array_equal(past["w"], params["w"])


def test_no_past_and_two_pasts_are_refused():
    params = {"w": jnp.ones(2)}
    for tx, number in (
        (optax.adam(0.1), 0),
        (optax.chain(track_past_params(0.9), track_lagged_params(2)), 2),
    ):
        with pytest.raises(ValueError, match=f"opt_state: holds {number} states"):
            get_past_params(tx.init(params))


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match=f"decay={decay}"):
        track_past_params(decay)


def test_a_wrong_lag_a_whole_number_and_missing_params_are_named():
    with pytest.raises(ValueError, match="lag=0"):
        track_lagged_params(0)
    params = {"layers": {"kept": jnp.arange(3)}}
    with pytest.raises(ValueError, match="layers/kept is int32"):
        track_past_params(0.9).init(params)
    tx, params = track_past_params(0.9), {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))
