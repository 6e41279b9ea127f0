"""The worst case: the tail that is drawn, attacks that break, and what is chosen."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import worst_case as paper
from lostjax.repro.papers.worst_case import training as attacked
from lostjax.repro.papers.worst_case.draws import RADIUS, Settings, Training, draw
from lostjax.repro.papers.worst_case.training import Trained
from lostjax.repro.problems.images import DIGITS

TINY = Training(DIGITS, 300, 100, 50, 1, 2, 1, 2, choices=())


def test_a_tail_is_drawn_and_all_else_is_in_equal_parts():
    drawn = draw(TINY, (0, 1))
    for seed in (0, 1):
        of_seed = jax.tree.map(lambda leaf, seed=seed: leaf[seed], drawn.seeds)
        counts = np.bincount(of_seed.labels_B, minlength=10)
        np.testing.assert_array_equal(counts, of_seed.counts_V)
        assert counts.sum() == 300 and 4 <= counts.max() / counts.min() <= 6
        np.testing.assert_array_equal(np.bincount(of_seed.validation_labels_B), 10)
        both = {
            row.tobytes()
            for row in np.asarray(
                jnp.concatenate([of_seed.inputs_BM, of_seed.validation_BM])
            )
        }
        assert len(both) > 395, "rows that are trained on and tuned by"
        assert (np.diff(counts) >= 0).all(), "the first class is the rarest"
    assert not np.array_equal(drawn.seeds.inputs_BM[0], drawn.seeds.inputs_BM[1])
    np.testing.assert_array_equal(np.bincount(drawn.test_labels_B), 5)


def linear_params():
    """A network whose logits are the pixels' values, class by class."""
    params = attacked.MODEL.init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    for layer in params.values():
        n = min(layer["kernel"].shape[0], 10)
        index = np.arange(n)
        layer["kernel"] = layer["kernel"].at[index, index].set(1.0)
    return params


@pytest.mark.parametrize("attack", ["gradient", "squares"])
def test_an_attack_breaks_who_is_within_its_reach_and_nobody_else(attack):
    gap = np.array([-1, 0.5, 1.5, 1.9, 2.1, 5]) * RADIUS
    x_BM = np.full((6, 16), 0.5, np.float32)
    x_BM[:, 0] += gap  # class 0 leads class 1 by the gap
    x_BM[:, 2:] -= 0.3
    labels_B = jnp.zeros(6, int)
    arguments = linear_params(), jnp.asarray(x_BM), labels_B
    key = jax.random.key(0)
    if attack == "gradient":
        wrong = attacked.attack_by_gradient(*arguments, key=key, n_steps=20, restarts=2)
    else:
        wrong = attacked.attack_by_squares(*arguments, key=key, n_queries=400)
    np.testing.assert_array_equal(wrong, [1, 1, 1, 1, 0, 0])
    shares = attacked.errors_by_class(wrong, jnp.array([0, 1, 1, 0, 0, 1]))
    np.testing.assert_allclose(shares[:2], [2 / 3, 2 / 3])


def test_a_network_that_diverged_is_wrong():
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, linear_params())
    wrong = attacked.attack_by_gradient(
        params,
        jnp.full((2, 16), 0.5),
        jnp.zeros(2, int),
        key=jax.random.key(0),
        n_steps=1,
        restarts=1,
    )
    assert wrong.all()


def test_averages_and_tails_are_each_of_their_best_choice(monkeypatch):
    """With made-up errors: the first choice is better on average, the other's tail."""
    errors_CV = np.full((2, 10), 0.3)
    errors_CV[0, :7] = 0.0
    errors_CV[0, 7:] = 0.9
    trained = Trained({"w": np.array([[1.0, 2.0]])}, errors_CV[None])
    monkeypatch.setattr(paper, "build_runs", lambda _: lambda seeds, settings: trained)

    def attack(params, x_BM, labels_B):
        errors_V = np.linspace(0, 1, 10) * params["w"][:, None] / 2
        return errors_V, errors_V / 2, errors_V / 4

    monkeypatch.setattr(paper, "build_attacks", lambda _: attack)
    config = dataclasses.replace(TINY, choices=(Settings(0.1), Settings(0.2)))
    found = paper.train_seeds(config, learning_rate=None, seeds=[0])
    assert found[paper.AVERAGE] == pytest.approx([25.0])
    assert found[paper.WORST] == pytest.approx([100.0])
    assert found[paper.TAIL] == pytest.approx([100 * 8 / 9])
    assert found[paper.SQUARE_TAIL] == pytest.approx([50 * 8 / 9])
    assert found[paper.CLEAN] == pytest.approx([6.25])
    assert found[paper.VALIDATION] == pytest.approx([27.0])
    assert found[paper.VALIDATION_TAIL] == pytest.approx([30.0])
    assert found[paper.RATE] == pytest.approx([0.1])
    assert found[paper.RATE_TAIL] == pytest.approx([0.2])


@pytest.mark.slow
def test_the_command_measures_every_statement_of_its_methods(tmp_path, capsys):
    words = ["worst_case", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "worst_case-smoke.json").read_text())
    assert len(claim["rows"]) == 2 and len(claim["findings"]) == 6
    for row in claim["rows"]:
        assert row["mean"][paper.CLEAN] <= row["mean"][paper.AVERAGE] <= 100
    assert "square" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["TRADES", "class weights", "barrier", "shuffled"])
def test_every_method_learns(method):
    scale = paper.EXPERIMENT.scales["smoke"]
    small = dataclasses.replace(scale.config, epochs=20, rows=600)
    config = paper.build_methods(dataclasses.replace(scale, config=small))[method]
    found = paper.train_seeds(config, learning_rate=None, seeds=[0])
    assert found[paper.CLEAN][0] < 40
