"""`fit` is a Python loop and `map_runs` is one run after the other, in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.steps import fit, map_runs

N_STEPS = 12


def batch_at(number):
    """A batch of its step's own: noise and the number itself."""
    key = jax.random.fold_in(jax.random.key(3), number)
    return jax.random.normal(key, (4, 2)), number


def step(state, batch):
    """Gradient descent with momentum on a quadratic, with noise."""
    noise_BD, number = batch

    def loss(w_D):
        return jnp.mean((w_D - 1 + noise_BD) ** 2)

    value, grads = jax.value_and_grad(loss)(state["w_D"])
    velocity = 0.9 * state["velocity"] + grads
    moved = {
        "w_D": state["w_D"] - 0.1 * velocity,
        "velocity": velocity,
        "key": jax.random.fold_in(state["key"], number),
        "done": state["done"] + 1,
    }
    return moved, {"loss": value, "number": number}


def start():
    """A state with floats, an integer and a key among its leaves."""
    return {
        "w_D": jnp.zeros(2),
        "velocity": jnp.zeros(2),
        "key": jax.random.key(0),
        "done": 0,
    }


def measure(state):
    return {"w_D": state["w_D"], "done": state["done"]}


@pytest.fixture(scope="module")
def looped():
    """The state and metrics after each step of a Python loop."""
    advance = jax.jit(step)
    state, seen = start(), []
    for number in range(N_STEPS):
        state, metrics = advance(state, batch_at(jnp.int32(number)))
        seen.append((state, metrics))
    return seen


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_equal(found, expected):
    def compare(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("log_every", [1, 3, 4, 12])
def test_a_fit_is_a_loop_bit_for_bit(looped, log_every):
    fitted = jax.jit(
        lambda state: fit(
            step,
            state,
            batch_at=batch_at,
            n_steps=N_STEPS,
            log_every=log_every,
            measure=measure,
        )
    )(start())
    kept = looped[log_every - 1 :: log_every]
    assert_equal(fitted.state, looped[-1][0])
    assert_equal(fitted.metrics, stack([metrics for _, metrics in kept]))
    assert_equal(fitted.measured, stack([measure(state) for state, _ in kept]))
    assert fitted.metrics["number"].dtype == jnp.int32


def test_without_jit_and_without_a_measure_it_is_the_same(looped):
    fitted = fit(step, start(), batch_at=batch_at, n_steps=N_STEPS)
    assert_equal(fitted.state, looped[-1][0])
    assert fitted.measured is None
    assert len(fitted.metrics["loss"]) == N_STEPS


def test_a_step_may_have_no_metrics():
    fitted = fit(lambda s, b: (s + b, None), 0, batch_at=lambda n: n, n_steps=5)
    assert fitted.state == 10 and fitted.metrics is None


def test_two_fits_in_a_row_are_one(looped):
    """A later stage goes on from a state, with batches that are numbered on."""
    first = fit(step, start(), batch_at=batch_at, n_steps=8)
    second = fit(
        step, first.state, batch_at=lambda number: batch_at(number + 8), n_steps=4
    )
    assert_equal(second.state, looped[-1][0])


def test_a_fit_of_fits_measures_after_stretches(looped):
    """Steps compose: a stretch of steps is a step."""

    def stretch(state, number):
        inner = fit(step, state, batch_at=lambda i: batch_at(4 * number + i), n_steps=4)
        return inner.state, measure(inner.state)

    outer = fit(stretch, start(), batch_at=lambda number: number, n_steps=3)
    assert_equal(outer.state, looped[-1][0])
    assert_equal(outer.metrics, stack([measure(state) for state, _ in looped[3::4]]))


# Runs.


def make_run(traces):
    """Least squares on a seed's own data by Adam, at a rate."""

    def run(seed, rate):
        traces.append(1)
        data, key = seed
        tx = optax.adam(rate)

        def descend(state, rows_B):
            params, opt_state = state
            x_BD, y_B = data["x_BD"][rows_B], data["y_B"][rows_B]
            value, grads = jax.value_and_grad(
                lambda w_D: jnp.mean((x_BD @ w_D - y_B) ** 2)
            )(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        def rows_at(number):
            return jax.random.randint(jax.random.fold_in(key, number), (8,), 0, 32)

        params = jnp.zeros(3)
        fitted = fit(
            descend,
            (params, tx.init(params)),
            batch_at=rows_at,
            n_steps=60,
            log_every=6,
        )
        return fitted.state[0], fitted.metrics

    return run


def make_seeds(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 32, 3)).astype(np.float32)
    data = {"x_BD": x, "y_B": x @ np.array([1.0, -2.0, 0.5], np.float32)}
    return data, jax.random.split(jax.random.key(1), n)


RATES = np.array([0.01, 0.1], np.float32)


@pytest.mark.parametrize("rates_at_once", [1, 2, 5])
def test_runs_of_the_map_are_runs_by_themselves(rates_at_once):
    """Up to how XLA sums a product of many matrices: some units in the last place."""
    seeds, run = make_seeds(3), make_run([])
    params_SRD, losses_SRK = map_runs(run, rates_at_once=rates_at_once)(seeds, RATES)
    assert params_SRD.shape == (3, 2, 3) and losses_SRK.shape == (3, 2, 10)
    alone = jax.jit(run)
    for s in range(3):
        for r in range(2):
            params_D, losses_K = alone(
                jax.tree.map(lambda x, s=s: x[s], seeds), RATES[r]
            )
            np.testing.assert_allclose(params_SRD[s, r], params_D, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(losses_SRK[s, r], losses_K, rtol=1e-4, atol=1e-6)
    assert np.abs(params_SRD[0] - params_SRD[1]).max() > 1e-3
    assert (losses_SRK[:, 1, -1] < 0.2 * losses_SRK[:, 0, -1]).all()


def test_all_seeds_and_rates_are_traced_once():
    traces = []
    run_all = map_runs(make_run(traces))
    run_all(make_seeds(3), RATES)
    run_all(make_seeds(3), 3 * RATES)
    assert len(traces) == 1


def test_the_step_is_traced_once_for_all_steps():
    traces = []

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    def run(w_D, scale):
        state = start() | {"w_D": w_D * scale, "done": jnp.int32(0)}
        return fit(counted, state, batch_at=batch_at, n_steps=N_STEPS, log_every=4)

    map_runs(run)(jnp.ones((5, 2)), jnp.ones(4))
    assert len(traces) == 1


def test_settings_may_be_a_tree():
    settings = {"rate": jnp.arange(4.0), "radius": jnp.ones(4)}
    found = map_runs(lambda seed, each: seed + each["rate"] * each["radius"])(
        jnp.arange(2.0), settings
    )
    np.testing.assert_array_equal(found, [[0, 1, 2, 3], [1, 2, 3, 4]])


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps=0: must be at least 1"),
        ({"log_every": 0}, "log_every=0: must divide n_steps=12"),
        ({"log_every": 5}, "log_every=5: must divide n_steps=12"),
        ({"log_every": 24}, "log_every=24: must divide n_steps=12"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(step, start(), **{"batch_at": batch_at, "n_steps": N_STEPS} | arguments)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda s, b: s, r"step: must return a pair \(state, metrics\)"),
        (lambda s, b: ({"w": s["w"]}, None), "step: returns a state of"),
        (
            lambda s, b: (s | {"w": s["w"].astype(jnp.bfloat16)}, None),
            r"step: returns w as bfloat16\[3\], was float32\[3\]",
        ),
        (
            lambda s, b: (s | {"n": {"count": s["w"][:2]}}, None),
            r"step: returns n/count as float32\[2\], was int32\[\]",
        ),
    ],
)
def test_a_step_that_changes_the_state_is_named(bad, message):
    state = {"w": jnp.zeros(3), "n": {"count": jnp.int32(0)}}
    with pytest.raises(ValueError, match=message):
        fit(bad, state, batch_at=lambda number: number, n_steps=2)


@pytest.mark.parametrize(
    ("seeds", "rates", "message"),
    [
        (jnp.zeros(2), jnp.zeros(0), r"rates: first axes \[\(0,\)\]"),
        (jnp.zeros(2), jnp.float32(1), r"rates: first axes \[\(\)\]"),
        (jnp.zeros(0), jnp.zeros(1), r"seeds: first axes \[\(0,\)\]"),
        (
            (jnp.zeros(2), jnp.zeros(3)),
            jnp.zeros(1),
            r"seeds: .*\(2,\), \(3,\)\], must",
        ),
        ({}, jnp.zeros(1), r"seeds: first axes \[\], must be one"),
    ],
)
def test_seeds_and_rates_need_one_first_axis(seeds, rates, message):
    with pytest.raises(ValueError, match=message):
        map_runs(lambda seed, rate: rate)(seeds, rates)


def test_a_rate_must_train_at_a_time():
    with pytest.raises(ValueError, match="rates_at_once=0: must be at least 1"):
        map_runs(lambda seed, rate: rate, rates_at_once=0)
