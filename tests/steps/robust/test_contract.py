"""What `fit` and its users expect of robust steps, and of what moves inputs.

Every step is pure, is traced once, returns a state that can be saved and restored in
its place, and equals plain descent in the limit that its row names. Everything that
moves inputs keeps them in its ball and in [0, 1], is deterministic, raises the value,
hides no NaN, and moves nothing if the radius is 0. `test_contract.py` one folder up
has the rows of language models' steps.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import losses, nn, steps

MODEL, TX = nn.MLP((5, 3)), optax.sgd(0.1, momentum=0.9)
GENERATOR = np.random.default_rng(0)
X_BM = jnp.asarray(GENERATOR.uniform(size=(6, 4)), jnp.float32)
LABELS_B = jnp.asarray(GENERATOR.integers(3, size=6))
PARAMS = MODEL.init(jax.random.key(0), X_BM)["params"]
RADIUS = 0.1
BARRIER = steps.Barrier(RADIUS, weight=0.01)


def losses_at(params, x_BM, labels_B):
    logits_BV = MODEL.apply({"params": params}, x_BM)
    return losses.next_token_loss(logits_BV, labels_B)


def attacked_losses(params, x_BM, batch):
    return losses_at(params, x_BM, batch.targets)


def divergence(params, x_BM, batch):
    """How far the answers are from those to the inputs as they are: TRADES'."""
    clean, moved = (
        jax.nn.log_softmax(MODEL.apply({"params": params}, x))
        for x in (batch.inputs, x_BM)
    )
    return jnp.sum(jnp.exp(clean) * (clean - moved), axis=-1)


def stay(value_of, x_BM, key):
    return x_BM


def project(value_of, x_BM, key):
    return steps.projected_ascent(
        value_of,
        x_BM,
        ball=steps.max_ball(RADIUS),
        step_size=RADIUS / 2,
        n_steps=3,
        key=key,
    )


def keep_inside(value_of, x_BM, key):
    return steps.barrier_ascent(value_of, x_BM, barrier=BARRIER, n_steps=3)


def adversarial(
    losses_of: Any = attacked_losses, **options: Any
) -> Callable[[], "Built"]:
    """Build a row of adversarial training."""

    def build() -> Built:
        step = steps.make_adversarial_step(losses_of, TX, **options)
        batch = steps.AttackedBatch(X_BM, LABELS_B, jax.random.key(1))
        return Built(step, steps.init_adversarial(PARAMS, TX), batch)

    return build


def coteaching(**options: Any) -> Callable[[], "Built"]:
    """Build a row of co-teaching: two networks that start alike, on two batches."""

    def build() -> Built:
        def losses_of(params, batch):
            return losses_at(params, *batch)

        both = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)  # noqa: E731
        state = steps.init_coteaching(both(PARAMS), TX)
        step = steps.make_coteaching_step(losses_of, TX, **options)
        return Built(step, state, both((X_BM, LABELS_B)))

    return build


class Built(NamedTuple):
    """A step, the state before the first one, and a batch."""

    step: Callable[..., Any]
    start: Any
    batch: Any


class Row(NamedTuple):
    """A way to build a step, and the way that makes it plain descent."""

    of: Callable[[], Built]
    limit: Callable[[], Built]


def trades(beta):
    return lambda params, x_BM, batch: (
        attacked_losses(params, batch.inputs, batch)
        + beta * divergence(params, x_BM, batch)
    )


ROWS = {
    "PGD": Row(adversarial(attack=project), adversarial(attack=stay)),
    "TRADES": Row(
        adversarial(attack=project, losses_of=trades(6.0), ascended_of=divergence),
        adversarial(attack=project, losses_of=trades(0.0), ascended_of=divergence),
    ),
    "weigh_hard": Row(
        adversarial(attack=stay, weigh=steps.weigh_hard(temperature=0.5)),
        adversarial(attack=stay, weigh=steps.weigh_hard(temperature=jnp.inf)),
    ),
    "respond_at": Row(
        adversarial(attack=keep_inside, respond=steps.respond_at(BARRIER)),
        adversarial(
            attack=stay, respond=steps.respond_at(BARRIER._replace(weight=1e9))
        ),
    ),
    "doubly robust": Row(
        adversarial(
            attack=keep_inside,
            weigh=steps.weigh_hard(temperature=0.5),
            respond=steps.respond_at(BARRIER),
        ),
        adversarial(attack=stay, weigh=steps.weigh_hard(temperature=0.5, warm_up=9)),
    ),
    "co-teaching": Row(coteaching(keep=0.5), coteaching(keep=1.0)),
    "co-teaching by another loss": Row(
        coteaching(keep=0.5, score_of=lambda params, batch: batch[0][:, 0]),
        coteaching(keep=1.0, score_of=lambda params, batch: batch[0][:, 0]),
    ),
}


class Done(NamedTuple):
    """A step from the start, the same step again, and the state after two."""

    start: Any
    first: Any
    again: Any
    state: Any
    traces: int


@cache
def run(name: str, *, limit: bool = False) -> Done:
    """Do two steps; every test of a row reads the same two."""
    traces = 0
    built = (ROWS[name].limit if limit else ROWS[name].of)()

    @jax.jit
    def counted(state, batch):
        nonlocal traces
        traces += 1
        return built.step(state, batch)

    first, again = (counted(built.start, built.batch) for _ in range(2))
    state, _ = counted(first[0], built.batch)
    return Done(built.start, first, again, state, traces)


@cache
def descend_twice():
    """Parameters after two steps of plain descent of the mean loss."""
    params, opt_state = PARAMS, TX.init(PARAMS)
    for _ in range(2):
        grads = jax.grad(lambda p: losses_at(p, X_BM, LABELS_B).mean())(params)
        updates, opt_state = TX.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_same(ours, theirs, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), ours, theirs)


def of_one(tree):
    """Take one network's parameters, if there are two."""
    two = jax.tree.leaves(tree)[0].ndim > jax.tree.leaves(PARAMS)[0].ndim
    return jax.tree.map(lambda x: x[1], tree) if two else tree


@pytest.mark.parametrize("name", ROWS)
def test_a_step_is_traced_once(name):
    assert run(name).traces == 1


@pytest.mark.parametrize("name", ROWS)
def test_a_step_is_pure(name):
    done = run(name)
    assert_same(done.first, done.again, rtol=0, atol=0)
    assert int(done.start.step) == 0 and int(done.state.step) == 2


@pytest.mark.parametrize("name", ROWS)
def test_a_state_is_restored_in_the_place_of_the_one_before(name):
    def describe(tree):
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    done = run(name)
    assert describe(done.state) == describe(done.start)
    leaves, structure = jax.tree.flatten(done.first[0])
    restored = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    built = ROWS[name].of()
    after, _ = jax.jit(built.step)(restored, built.batch)
    assert_same(after, done.state, rtol=0, atol=0)


@pytest.mark.parametrize("name", ROWS)
def test_in_the_limit_it_is_plain_descent_and_off_it_it_is_not(name):
    plain = descend_twice()
    assert_same(of_one(run(name, limit=True).state.params), plain, rtol=1e-4, atol=1e-6)
    ours, theirs = (
        jax.flatten_util.ravel_pytree(tree)[0]
        for tree in (of_one(run(name).state.params), plain)
    )
    assert float(jnp.max(jnp.abs(ours - theirs))) > 1e-4


@pytest.mark.parametrize("name", ROWS)
def test_metrics_are_finite_and_the_loss_is_that_before_the_step(name):
    metrics = run(name).first[1]
    assert all(np.isfinite(value).all() for value in metrics.values())
    clean = losses_at(PARAMS, X_BM, LABELS_B)
    # An attack can only raise it; co-teaching takes the smaller half of it.
    low, high = float(jnp.sort(clean)[:1].mean()), float(clean.mean()) + 1.0
    assert (low <= metrics["loss"]).all() and (metrics["loss"] <= high).all()


def ball_ascent(make_ball):
    def move(value_of, x, *, radius, key):
        return steps.projected_ascent(
            value_of,
            x,
            ball=make_ball(radius),
            step_size=radius / 2,
            n_steps=4,
            restarts=2,
            key=key,
        )

    return move


def barrier_move(value_of, x, *, radius, key):
    barrier = steps.Barrier(radius, weight=1e-3)
    return steps.barrier_ascent(value_of, x, barrier=barrier, n_steps=4)


def square_move(value_of, x, *, radius, key):
    return steps.square_attack(
        lambda images: value_of(images.reshape(x.shape)),
        x.reshape(-1, 2, 2),
        radius=radius,
        n_queries=30,
        key=key,
    ).reshape(x.shape)


MOVES = {
    "projected_ascent, max_ball": ball_ascent(steps.max_ball),
    "projected_ascent, euclidean_ball": ball_ascent(steps.euclidean_ball),
    "barrier_ascent": barrier_move,
    "square_attack": square_move,
}


def value_of(x_BM):
    return losses_at(PARAMS, x_BM, LABELS_B)


def moved(name, *, x_BM=X_BM, radius=RADIUS, value_of=value_of, key=3):
    return MOVES[name](value_of, x_BM, radius=radius, key=jax.random.key(key))


@pytest.mark.parametrize("name", MOVES)
def test_a_move_stays_inside_and_raises_every_value(name):
    new_BM = moved(name)
    distance = np.abs(new_BM - X_BM)
    if "euclidean" in name:
        distance = np.linalg.norm(distance, axis=-1)
    assert distance.max() <= RADIUS * (1 + 1e-5)
    assert distance.max() > RADIUS / 2, "far enough to be worth anything"
    assert (new_BM >= 0).all() and (new_BM <= 1).all()
    assert (value_of(new_BM) >= value_of(X_BM)).all()


@pytest.mark.parametrize("name", MOVES)
def test_a_move_is_deterministic_and_traced_once_for_any_radius(name):
    traces = 0

    @jax.jit
    def counted(x_BM, radius):
        nonlocal traces
        traces += 1
        return moved(name, x_BM=x_BM, radius=radius)

    first, again = (counted(X_BM, jnp.float32(RADIUS)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    counted(X_BM, jnp.float32(RADIUS / 2))
    assert traces == 1


@pytest.mark.parametrize("name", MOVES)
def test_in_the_limit_of_no_radius_nothing_moves(name):
    # A barrier needs room.
    radius = 1e-7 if name == "barrier_ascent" else 0.0
    np.testing.assert_allclose(moved(name, radius=radius), X_BM, rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", MOVES)
def test_an_example_is_moved_by_its_own_value_alone(name):
    """A NaN of one example is seen, and reaches no other."""

    def broken(x_BM):
        return value_of(x_BM).at[0].multiply(jnp.nan)

    whole, part = moved(name), moved(name, value_of=broken)
    np.testing.assert_array_equal(whole[1:], part[1:])


@pytest.mark.parametrize("name", MOVES)
def test_no_gradient_flows_through_a_move(name):
    grads = jax.grad(lambda x_BM: jnp.sum(moved(name, x_BM=x_BM)))(X_BM)
    np.testing.assert_array_equal(grads, 0)
