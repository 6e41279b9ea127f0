"""The few-shot paper: splits by class, episodes, and errors."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import Episode
from lostjax.repro.__main__ import main
from lostjax.repro.papers.few_shot import sets
from lostjax.repro.papers.few_shot.training import (
    SHOTS,
    TERMS,
    count_errors,
    find_prototypes,
)


def test_kinds_stay_on_one_side_and_episodes_inside_their_part(monkeypatch):
    monkeypatch.setattr(sets, "CHOOSE_EPISODES", 3)
    monkeypatch.setattr(sets, "JUDGE_EPISODES", 3)
    monkeypatch.setattr(sets, "TRAIN_WAY", 4)
    monkeypatch.setattr(sets, "WAY", 2)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 15)
    kin = tuple(chr(ord("a") + label // 2) for label in range(20))
    classes = sets.Classes(generator.random((300, 256)), labels, kin)
    found = sets._draw_seed(classes, seed=1, steps=20)
    parts = [found.train, found.choose, found.judge]
    kinds = [{kin[label] for label in part.classes_N.ravel()} for part in parts]
    assert [len(each) for each in kinds] == [6, 2, 2]
    assert len(set.union(*kinds)) == 10
    for part in parts:
        rows = np.concatenate([part.support_NS, part.query_NQ], axis=-1)
        np.testing.assert_array_equal(
            labels[rows], np.broadcast_to(part.classes_N[..., None], rows.shape)
        )
    assert np.abs(found.images_BM - classes.images_BM).max() > 0.5, "moved, with noise"


def test_a_class_of_pictograms_has_one_of_each_family(monkeypatch):
    monkeypatch.setattr(sets, "FEWEST", 2)
    images = np.ones((6, 16, 16, 3), np.float32)
    images[[0, 1, 3], 0, 0] = [[0.0], [0.25], [0.5]]
    made = SimpleNamespace(
        images=images,
        families=("a", "a", "b", "c", "d", "c"),
        subgroups=("bird", "bird", "bird", "bug", "bug", "bug"),
    )
    monkeypatch.setattr(sets, "load_openmoji", lambda *, size: made)
    found = sets.draw_pictograms()
    assert found.labels_B.tolist() == [0, 0, 1, 1] and found.kin == ("bird", "bug")
    # White is 0; the first of a family stands for it.
    np.testing.assert_allclose(found.images_BM[:, 0], [1, 0, 0.5, 0])


def test_one_shot_takes_the_first_example_and_five_take_all():
    support = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)))
    find = jax.jit(find_prototypes)
    np.testing.assert_allclose(find(support, jnp.int32(1)), support[:, 0], rtol=1e-6)
    np.testing.assert_allclose(find(support, jnp.int32(5)), support.mean(1), rtol=1e-5)
    assert SHOTS == (1, 5)


def test_errors_are_counted_by_the_nearest_prototype():
    features = jnp.array([[0.0], [1.0], [0.1], [0.9], [0.8], [1.1]])
    episodes = Episode(
        classes_N=jnp.array([[0, 1], [0, 1]]),
        support_NS=jnp.array([[[0], [1]], [[0], [1]]]),
        query_NQ=jnp.array([[[2, 2], [3, 5]], [[2, 4], [3, 5]]]),
    )
    mean, width = jax.jit(count_errors)(features, episodes, jnp.int32(1))
    np.testing.assert_allclose(mean, 12.5, rtol=1e-6)
    # Errors of 0 and 25 %: a deviation of 17.7, of which two make an interval.
    np.testing.assert_allclose(width, 1.96 * 17.678 / 2**0.5, rtol=1e-3)


@pytest.mark.slow
def test_every_term_is_less_for_queries_at_their_own_prototypes():
    protos = 4 * jnp.eye(3)
    right = jnp.repeat(protos[:, None], 5, axis=1) + 1e-2
    own = jnp.repeat(jnp.arange(3)[:, None], 5, axis=1)
    mixed = jnp.roll(right, 1, axis=0).at[:, ::2].set(right[:, ::2])

    @jax.jit
    def measure(queries):
        return [term(queries, own, protos) for term in TERMS.values()]

    for less, more in zip(measure(right), measure(mixed), strict=True):
        assert less < more


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path, capsys):
    words = ["few_shot", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "few_shot-smoke.json").read_text())
    mean = {row["method"]: row["mean"]["error, mean"] for row in claim["rows"]}
    assert all(0 < error < 80 for error in mean.values())
