"""What the trainer and `fit` expect of a step, for each way to build one.

One row a way. Every step is pure, is traced once, returns a state that can be saved and
restored in its place, and equals the plain step in the limit that its row names. The
names of the room that build no step have rows of their own tests.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import nn, steps
from lostjax.steps.guard import init_guard
from lostjax.typing import Batch

pytestmark = pytest.mark.newest
MODEL = nn.Transformer(vocab_size=16, d_model=16, n_layers=1, n_heads=2, d_hidden=24)
ROWS, LENGTH = 4, 6


def never_matters(values_BT, weights_BT, step):
    """Factors of rows that all count alike."""
    return jnp.ones(len(values_BT))


def hard_rows(values_BT, weights_BT, step):
    """Factors that let the rows of larger loss count more."""
    losses_B = jnp.mean(values_BT, axis=1)
    return len(losses_B) * jax.nn.softmax(5.0 * losses_B)


class Way(NamedTuple):
    """Arguments of `make_gradient`, and those of its limit."""

    of: dict[str, Any]
    limit: dict[str, Any]
    """With these the step equals the plain one."""
    differs: bool = True
    """Whether `of` trains otherwise than the plain step."""


WAYS = {
    "plain": Way({}, {}, differs=False),
    "accumulated": Way({"accumulate": 2}, {"accumulate": 2}, differs=False),
    "smoothed": Way(
        {"terms": {"smoothing": steps.label_smoothing_term(0.3)}},
        {"terms": {"smoothing": steps.label_smoothing_term(0.0)}},
    ),
    "log partition": Way(
        {"terms": {"log_partition": steps.log_partition_term(0.5)}},
        {"terms": {"log_partition": steps.log_partition_term(0.0)}},
    ),
    "reweighted": Way({"reweight": hard_rows}, {"reweight": never_matters}),
    "reweighted, accumulated": Way(
        {"reweight": hard_rows, "accumulate": 2},
        {"reweight": never_matters, "accumulate": 2},
    ),
    "sharpness-aware": Way({"sam_radius": 0.5}, {"sam_radius": 1e-9}),
    "watched": Way({"watch": True}, {"watch": True}, differs=False),
}


def make_batch() -> Batch:
    tokens_BT = jax.random.randint(jax.random.key(1), (ROWS, LENGTH + 1), 0, 16)
    ones_BT = jnp.ones((ROWS, LENGTH), jnp.int32)
    # Rows of different lengths: micro-batches must count by their tokens.
    lengths_B = jnp.array([6, 2, 5, 3])[:, None]
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=(jnp.arange(LENGTH) < lengths_B).astype(jnp.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1) - 1,
        example_B=jnp.arange(ROWS),
        epoch_B=jnp.zeros(ROWS, jnp.int32),
    )


BATCH, TX = make_batch(), optax.adam(1e-2)


@cache
def start() -> steps.TrainState:
    variables = MODEL.init(jax.random.key(0), BATCH.tokens_BT)
    return steps.TrainState(
        step=jnp.int32(0),
        offset=jnp.int32(0),
        params=variables["params"],
        channels=variables.get("channels", {}),
        opt_state=TX.init(variables["params"]),
        guard=init_guard(),
    )


class Done(NamedTuple):
    """A step from the start, the same step again, and the one after it."""

    first: tuple[steps.TrainState, Any]
    again: tuple[steps.TrainState, Any]
    state: steps.TrainState
    traces: int


@cache
def run(name: str, *, limit: bool = False) -> Done:
    """Do two steps on one batch; every test of a way reads the same two."""
    traces = 0
    way = WAYS[name]
    if limit and not way.differs:
        return run(name)
    options = way.limit if limit else way.of
    step: Callable[..., Any] = steps.make_train_step(
        steps.make_gradient(MODEL, **options), TX
    )

    @jax.jit
    def counted(state, batch):
        nonlocal traces
        traces += 1
        return step(state, batch)

    first, again = (counted(start(), BATCH) for _ in range(2))
    state, _ = counted(first[0], BATCH)
    return Done(first, again, state, traces)


def assert_same(ours, theirs, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), ours, theirs)


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_traced_once(name):
    assert run(name).traces == 1


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_pure(name):
    """It neither changes its arguments nor remembers anything beside the state."""
    assert_same(run(name).first, run(name).again, rtol=0, atol=0)
    assert int(start().step) == 0


@pytest.mark.parametrize("name", WAYS)
def test_a_state_is_restored_in_the_place_of_the_one_before(name):
    def describe(tree):
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    after = run(name).state
    assert describe(after) == describe(start())
    assert int(after.step) == 2
    leaves, structure = jax.tree.flatten(after)
    restored = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    assert_same(restored, after, rtol=0, atol=0)


@pytest.mark.parametrize("name", WAYS)
def test_in_the_limit_it_is_the_plain_step(name):
    plain = run("plain").state.params
    assert_same(run(name, limit=True).state.params, plain, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.differs])
def test_off_the_limit_it_is_another_step(name):
    ours, plain = (
        jax.flatten_util.ravel_pytree(run(each).state.params)[0]
        for each in (name, "plain")
    )
    assert float(jnp.max(jnp.abs(ours - plain))) > 1e-3


@pytest.mark.parametrize("name", WAYS)
def test_the_loss_is_that_of_the_plain_targets(name):
    """Terms and factors change what is minimised, not the `loss` that is reported."""
    (_, ours), (_, plain) = run(name).first, run("plain").first
    np.testing.assert_allclose(ours["loss"], plain["loss"], rtol=1e-6)
    assert float(ours["tokens"]) == float(BATCH.weights_BT.sum())


def test_an_evaluation_is_the_loss_of_the_step_that_follows():
    state, metrics = start(), run("plain").first[1]
    evaluate = jax.jit(steps.make_eval_step(MODEL))
    total, tokens = evaluate(steps.model_variables(state), BATCH)
    assert float(tokens) == float(BATCH.weights_BT.sum())
    np.testing.assert_allclose(total / tokens, metrics["loss"], rtol=1e-6)


def test_a_bad_number_leaves_the_state_as_it_is():
    params = jax.tree.map(lambda x: x.at[...].set(jnp.nan), start().params)
    step = jax.jit(steps.make_train_step(steps.make_gradient(MODEL), TX))
    before = start()._replace(params=params)
    after, metrics = step(before, BATCH)
    assert int(metrics["skipped"]) == 1
    assert_same(after.opt_state, before.opt_state, rtol=0, atol=0)


BUILDERS = {
    "make_train_step",
    "make_gradient",
    "label_smoothing_term",
    "log_partition_term",
    "make_eval_step",
    "model_variables",
}
"""Names that the tests above use."""
TESTED_ELSEWHERE = {
    "fit": "test_fit.py",
    "map_runs": "test_fit.py",
    "init_adversarial": "robust/test_contract.py",
    "make_adversarial_step": "robust/test_contract.py",
    "respond_at": "robust/test_contract.py",
    "weigh_alike": "robust/test_adversarial.py",
    "weigh_hard": "robust/test_contract.py",
    "init_coteaching": "robust/test_contract.py",
    "make_coteaching_step": "robust/test_contract.py",
    "barrier_ascent": "robust/test_contract.py",
    "euclidean_ball": "robust/test_contract.py",
    "max_ball": "robust/test_contract.py",
    "projected_ascent": "robust/test_contract.py",
    "square_attack": "robust/test_contract.py",
    "ascend": "robust/test_ascent.py",
    "move": "robust/test_ascent.py",
    "init_guard": "test_guard.py",
    "init_unlearning": "unlearning/test_contract.py",
    "make_diffusion_forget_step": "unlearning/test_contract.py",
    "make_forget_step": "unlearning/test_contract.py",
    "other_labels": "unlearning/test_contract.py",
    "random_labels": "unlearning/test_contract.py",
    "soft_threshold": "unlearning/test_contract.py",
}
"""Names that build no step of language models, and the file that tests them."""
TYPES = {
    "AdversarialState",
    "Attack",
    "AttackedBatch",
    "AttackedLosses",
    "Ball",
    "Barrier",
    "CoteachingState",
    "DiffusionBatch",
    "ExampleLosses",
    "ForgetBatch",
    "LossesOf",
    "PredictNoise",
    "Settle",
    "UnlearningState",
    "Respond",
    "ValueOf",
    "Weigh",
    "Weighed",
    "BatchAt",
    "Fitted",
    "Gradient",
    "GradientOf",
    "Guard",
    "GuardState",
    "Measure",
    "Readings",
    "Step",
    "Term",
    "TrainState",
}


def test_every_public_name_has_a_row():
    assert set(steps.__all__) == BUILDERS | set(TESTED_ELSEWHERE) | TYPES
    for name, file in TESTED_ELSEWHERE.items():
        assert name in (Path(__file__).parent / file).read_text(), (name, file)
