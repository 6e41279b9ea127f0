"""Temperatures of contrastive losses: views, pairs, the probe, and what is shared."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses
from lostjax.repro.__main__ import main
from lostjax.repro.papers import contrastive as paper
from lostjax.repro.problems import two_views
from lostjax.repro.problems.two_views import VIEWS, Training

RNG = np.random.default_rng(0)


def test_a_view_is_a_part_of_its_image_with_a_square_erased():
    draw = jax.jit(jax.vmap(two_views.draw_view, (None, 0)))
    views = draw(jnp.ones((12, 12)), jax.random.split(jax.random.key(0), 50))
    for view in np.asarray(views):
        bright = view.max()
        assert 0.6 <= bright <= 1.4
        # The image is constant: all that is not erased is as bright.
        np.testing.assert_allclose(view[view > 0], bright, rtol=1e-5)
        rows, columns = np.nonzero(view == 0)
        assert len(rows) == 16 and np.ptp(rows) == np.ptp(columns) == 3
    rising = jnp.broadcast_to(jnp.linspace(0.5, 1, 12), (12, 12))
    views = np.asarray(draw(rising, jax.random.split(jax.random.key(0), 50)))
    slopes = [np.diff(view[~(view == 0).any(1)].mean(0)).sum() for view in views]
    assert min(slopes) < -0.1 and max(slopes) > 0.1, "some are mirrored"


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_pair_is_two_views_of_one_image_unless_it_is_shuffled(shuffled):
    training = Training(batch=16, shuffled=shuffled)
    numbers = 100 * np.arange(20)[:, None] + np.arange(VIEWS)
    views = jnp.broadcast_to(
        jnp.asarray(numbers, jnp.float32)[..., None, None], (20, VIEWS, 2, 2)
    )
    pairs = jax.jit(two_views.draw_pairs, static_argnums=0)(
        training, views, jax.random.key(1), jnp.int32(3)
    )
    (image, other), (view, second) = np.divmod(np.asarray(pairs)[..., 0, 0, 0], 100)
    assert len(set(image)) == 16, "an image is its own negative"
    assert sorted(other) == sorted(image)
    if shuffled:
        assert np.sum(other != image) > 10
    else:
        np.testing.assert_array_equal(other, image)
        assert (view != second).all()


def test_the_probe_reads_what_is_linear_and_the_ridge_is_chosen_elsewhere():
    labels = [jnp.asarray(RNG.integers(0, 10, n)) for n in (200, 50, 50)]
    features = [
        10 * jax.nn.one_hot(of, 10)[:, ::-1] + RNG.normal(size=(len(of), 10)) + 7
        for of in labels
    ]
    probe = jax.jit(two_views.probe)
    assert max(probe(features, labels)) == 0
    noise = [jnp.asarray(RNG.normal(size=each.shape)) for each in features]
    assert min(probe(noise, labels)) > 0.7


def test_a_temperature_of_0_is_the_simple_loss_and_others_are_traced():
    x, y = jnp.asarray(RNG.normal(size=(2, 11, 4)), jnp.float32)
    for share, weight in ((1.0, 1 / 10), (0.2, 1 / 2)):
        found = two_views.compute_loss(
            Training(hard_share=share), x, y, temperature=0.0
        )
        expected = losses.simple_contrastive_loss(x, y, weight=weight, hard_share=share)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    warm = Training(temperature=0.7)
    found = two_views.compute_loss(warm, x, y, temperature=0.7)
    expected = 0.7 * losses.info_nce_loss(x, y, temperature=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    cold = Training(temperature=0.03)
    assert warm.without_temperature() == cold.without_temperature()
    assert warm.without_temperature() != Training().without_temperature()


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path):
    words = ["contrastive", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "contrastive-smoke.json").read_text())
    rows = {row["method"]: row["mean"] for row in claim["rows"]}
    assert all(0 < row[paper.ERROR] < 60 for row in rows.values())
    assert rows[paper.UNTRAINED][paper.TOLERANCE] > 0.8
