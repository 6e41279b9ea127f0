"""Forgetting continues bit for bit after a kill, keeps its budget and freezes weights.

What is measured is decided by the test; the model and the steps are real.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.errors import ConfigError
from lostjax.nn import Transformer
from lostjax.train.devices.mesh import make_mesh
from lostjax.unlearn.examples import Example, encode_answers
from lostjax.unlearn.forgetting import (
    Check,
    Forgetting,
    Plan,
    Rows,
)
from lostjax.unlearn.measure import Measures
from lostjax.unlearn.methods import METHODS, Settings
from lostjax.unlearn.page import (
    Sample,
    Unlearning,
    describe,
    list_values,
    render_unlearning,
)
from lostjax.unlearn.relearning import Relearning
from lostjax.unlearn.unfinished import hold_work

MODEL = Transformer(vocab_size=16, d_model=8, n_layers=1, n_heads=2, d_hidden=8)
MESH = make_mesh("data:1")
EXAMPLES = [Example("", (1, i), (3 + i, 5), (7,)) for i in range(3)]
BEFORE = Check(0, 0.5, 2.0)


class Killed(BaseException):
    pass


def checks(bits):
    """Held-out bits per byte of each check, in order; None is a kill."""
    left = iter(bits)

    def check(step, variables):
        value = next(left)
        if value is None:
            raise Killed
        return Check(step, 0.25, value)

    return check


@functools.cache
def forgetting():
    """Forget three examples in four steps, which are checked one by one."""
    variables = jax.jit(MODEL.init)(jax.random.key(0), jnp.ones((1, 4), jnp.int32))
    variables = jax.device_put(variables, NamedSharding(MESH, P()))
    answers, templates = (
        encode_answers(EXAMPLES, length=8, eos=0, answer_of=of)
        for of in (lambda each: each.answer, lambda each: each.template)
    )
    plan = Plan(
        method=METHODS["gradient_ascent"],
        settings=Settings(),
        steps=4,
        check_every=1,
        batch_size=2,
        learning_rate=0.01,
        weight_decay=0.1,
        retain_weight=1.0,
        saliency=0.3,
        max_utility_loss=None,
        seed=0,
    )
    zeros = np.zeros(3)
    return Forgetting(
        MODEL,
        {"params": variables["params"], "channels": {}},
        plan=plan,
        rows=Rows(answers, templates, zeros, zeros, None),
        mesh=MESH,
        vocab_size=16,
    )


def run(place, bits, *, limit=None):
    made = forgetting()
    made._plan = made._plan._replace(max_utility_loss=limit)
    # A step writes over the state that it is given.
    start, made.start = made.start, jax.tree.map(lambda x: x.copy(), made.start)
    try:
        return made.run(place, check=checks(bits), before=BEFORE)
    finally:
        made.start = start


def test_a_killed_start_continues_bit_for_bit(tmp_path, capsys):
    whole = run(tmp_path / "whole", [2.0, 2.0, 2.0, 2.0])
    with pytest.raises(Killed):
        run(tmp_path / "killed", [2.0, 2.1, None])
    ended = run(tmp_path / "killed", [2.2, 2.3])
    assert "continues from step 2" in capsys.readouterr().out
    assert [each.step for each in ended.history] == [0, 1, 2, 3, 4]
    assert [each.bits_per_byte for each in ended.history] == [2.0, 2.0, 2.1, 2.2, 2.3]
    jax.tree.map(np.testing.assert_array_equal, ended.params, whole.params)
    # Finished already, as if it was killed while it was written out.
    again = run(tmp_path / "killed", [])
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    start = forgetting().start.params
    moved = [
        np.ravel(np.asarray(a) != np.asarray(b))
        for a, b in zip(
            jax.tree.leaves(start), jax.tree.leaves(whole.params), strict=True
        )
    ]
    n_moved, size = np.sum(np.concatenate(moved)), sum(map(len, moved))
    assert 0.2 * size < n_moved <= round(0.3 * size)  # decay would move them all


def test_a_budget_returns_to_the_last_check_within_it(tmp_path, capsys):
    within = run(tmp_path / "a", [2.0, 2.01, 2.5], limit=0.02)
    assert within.is_stopped and within.history[-1].step == 2
    said = capsys.readouterr().out
    assert "rose by 25.0 % in 3 steps; returning to step 2" in said
    two = run(tmp_path / "b", [2.0, 2.01, float("nan")])
    assert two.is_stopped, "a loss that is not a number ends it without a budget too"
    jax.tree.map(np.testing.assert_array_equal, within.params, two.params)
    with pytest.raises(ConfigError, match=r"--max-utility-loss=0.02: .* 5.0 % in 1"):
        run(tmp_path / "c", [2.1], limit=0.02)


def test_work_of_other_settings_is_refused(tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        with hold_work(out, {"seed": 0}) as folder:
            assert folder == tmp_path / "out.unlearning"
    with (
        pytest.raises(ConfigError, match="was begun with other flags"),
        hold_work(out, {"seed": 1}),
    ):
        pass


def make_result(**changed):
    before = Measures(0.9, 1.0, 0.8, 2.0, 0.7, 0.5, None, None)
    after = Measures(0.1, 0.0, 0.5, 2.1, 0.6, 0.5, None, None)
    result = Unlearning(
        title="run",
        method="FLAT",
        facts=[("steps", "4")],
        n_forget=3,
        history=[BEFORE, Check(2, float("nan"), float("nan")), Check(4, 0.1, 2.1)],
        is_stopped=False,
        before=before,
        after=after,
        retrained=Measures(0.2, 0.0, 0.4, 2.0, 0.65, 0.5, None, None),
        relearning=Relearning([0, 1, 2], [0.1, 0.3, 0.6]),
        retrained_relearning=Relearning([0, 1, 2], [0.2, 0.2, 0.3]),
        samples=[Sample("forgotten", "<b>", "x", "y", "z")],
        notes=["note"],
    )
    return result._replace(**changed)


def test_the_page_has_before_after_and_the_four_gaps(read_page):
    result = make_result()
    gaps = list_values(result)["gaps"]
    assert gaps == pytest.approx(
        {"probability": 0.1, "membership": 0.1, "bits_per_byte": 0.1}
        | {"near_probability": 0.05}
    )
    page = read_page(render_unlearning(result))
    assert page.count("svg") == 4 and page.count("table") == 2
    assert "neighbours: probability of the answers" in page.text
    assert "retained: probability" not in page.text
    assert "<b>" in page.text and "retrained" in page.text
    alone = make_result(retrained=None, retrained_relearning=None)
    assert not list_values(alone)["gaps"]
    assert "retrained" not in read_page(render_unlearning(alone)).text


def test_the_finding_says_whether_the_forgotten_comes_back():
    assert describe(make_result()).endswith("half of the way back in 2 steps.")
    slow = Relearning([0, 2], [0.1, 0.2])
    assert "does not bring the others half" in describe(make_result(relearning=slow))
    known = Relearning([0, 2], [0.88, 0.9])
    assert "Hardly anything was forgotten" in describe(make_result(relearning=known))
    assert "ended it at step 4" in describe(make_result(is_stopped=True))
