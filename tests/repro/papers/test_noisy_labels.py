"""Noisy labels: what is drawn, what is chosen by validation, and bias and variance."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import noisy_labels as paper
from lostjax.repro.papers.noisy_labels import training as pairs
from lostjax.repro.papers.noisy_labels.draws import NOISES, Settings, Training, draw
from lostjax.repro.papers.noisy_labels.training import Ran
from lostjax.repro.problems.images import DIGITS
from lostjax.sweep.cell_file import Cell
from lostjax.sweep.cells import describe_making

TINY = Training(DIGITS, 100, 50, 20, epochs=1, block=2, choices=())


def make_cell(measures):
    return Cell("x", "x", {}, measures, describe_making(seconds=0.0))


def test_noise_is_as_told_and_seeds_share_the_test_images():
    drawn = draw(dataclasses.replace(TINY, rows=1000), 0)
    assert len(drawn.seeds) == 2 * len(NOISES)
    clean = drawn.seeds[list(NOISES).index("none")].labels_B
    for place, noise in enumerate(NOISES):
        seed = drawn.seeds[place]
        wrong = float(np.mean(seed.labels_B != clean))
        expected = 0 if noise == "none" else NOISES[noise]
        assert wrong == pytest.approx(expected, abs=0.05)
        assert seed.rows_S2B.shape == (5 * 20, 2, 50)
    other = drawn.seeds[len(NOISES)]
    assert not np.array_equal(other.inputs_BM, drawn.seeds[0].inputs_BM)


def test_choice_and_length_are_those_that_validate_best(monkeypatch):
    """With made-up answers: the second choice after its fourth period, for seed 1."""
    labels_B = draw(TINY, 0).test_labels_B
    right_BV = np.eye(10)[labels_B]
    wrong_BV = np.roll(right_BV, 1, axis=1)
    n_runs = 2 * len(NOISES)
    validation = np.full((n_runs, 3, 5), 0.5)
    answers = np.broadcast_to(wrong_BV, (n_runs, 3, 5, *right_BV.shape)).copy()
    validation[len(NOISES) :, 1, 3] = 0.2
    answers[len(NOISES) :, 1, 3] = right_BV
    ran = Ran(validation, answers, None)
    monkeypatch.setattr(paper, "train_choices", lambda *_: ran)
    found = paper.train_seeds(TINY, learning_rate=0.1, seeds=[1, 0])
    for noise in NOISES:
        assert found[paper.validation(noise)] == [20, 50]
        assert found[paper.error(noise)] == [0, 100]
        assert found[paper.last_error(noise)] == [100, 100]
        # Of |p - y|^2, 0 and 2: the mean answer is .5 from each, in two classes.
        assert found[paper.variance(noise)] == pytest.approx([50, 50])
        assert found[paper.squared_bias(noise)] == pytest.approx([-50, 150])
        assert np.mean(found[paper.squared_bias(noise)]) == pytest.approx(50)


def test_each_noise_is_taken_at_the_rate_that_validates_best():
    def cell(validation, error):
        measures = {}
        for noise in NOISES:
            measures |= {
                paper.validation(noise): validation,
                paper.last_validation(noise): -validation,
                paper.error(noise): error,
                paper.last_error(noise): error,
                paper.variance(noise): 0.0,
                paper.squared_bias(noise): 0.0,
            }
        return make_cell(measures)

    grids = [{0.1: cell(3.0, 1.0), 0.2: cell(2.0, 7.0)}] * 2
    found = paper.summarise(grids)
    assert found[paper.error("none")] == (7.0, 7.0)
    assert found[paper.last_error("none")] == (1.0, 1.0)


def test_every_setting_changes_what_is_descended():
    keys = jax.random.split(jax.random.key(0), 3)
    params = pairs.init_params(keys[0], 6)
    x_BM = jax.random.uniform(keys[1], (40, 6))
    batch = pairs.Batch(x_BM, jnp.arange(40) % 10, keys[2], jnp.int32(4))
    plain_B = pairs.descend(params, batch, Settings())
    for changes in ({"dropout": 0.5}, {"sigma": 3.0}, {"q": 0.7}):
        other_B = pairs.descend(params, batch, Settings(**changes))
        assert np.abs(other_B - plain_B).max() > 0.05
    whole_BV = pairs.answer(params, x_BM, jnp.int32(pairs.FEATURES))
    first_BV = pairs.answer(params, x_BM, jnp.int32(2))
    expected = pairs.encode(params, x_BM)[:, :2] @ params["kernel_DN"][:2]
    np.testing.assert_allclose(first_BV, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(whole_BV - first_BV).max() > 0.05


def test_without_the_filter_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    words = dataclasses.replace(TINY, choices=(Settings(),) * 3, filtered=True)
    with pytest.raises(ValueError, match=r"pip install 'lostjax\[noisy-labels\]'"):
        pairs.train_choices(words, 0.1, 0)


@pytest.mark.slow
def test_the_command_measures_every_statement_of_its_methods(tmp_path, capsys):
    words = ["noisy_labels", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "noisy_labels-smoke.json").read_text())
    assert len(claim["rows"]) == 4 and len(claim["findings"]) > 10
    for row in claim["rows"]:
        assert 0 < row["mean"][paper.error("none")] < 90
    assert "symmetric 50 %" in capsys.readouterr().out


@pytest.mark.slow
def test_the_filter_drops_wrong_labels_by_networks_that_did_not_see_them(monkeypatch):
    cleanlab = pytest.importorskip("cleanlab.filter")
    seen = []

    def spy(labels_B, p_BV, **options):
        found = find(labels_B, p_BV, **options)
        seen.append((labels_B, p_BV, found))
        return found

    find = cleanlab.find_label_issues
    monkeypatch.setattr(cleanlab, "find_label_issues", spy)
    training = Training(
        DIGITS, 600, 50, 50, epochs=10, block=1, choices=(Settings(),) * 3
    )
    pairs.train_choices(dataclasses.replace(training, filtered=True), 0.1, 0)
    assert len(seen) == 3 * len(NOISES)
    clean_B = seen[list(NOISES).index("none")][0]
    labels_B, p_BV, dropped_B = seen[list(NOISES).index("symmetric 50 %")]
    wrong_B = labels_B != clean_B
    assert wrong_B[dropped_B].mean() > wrong_B.mean() + 0.1
    # Networks that had been trained on these labels would agree with four in five.
    assert (p_BV.argmax(-1) == labels_B)[wrong_B].mean() < 0.2
