"""Images as embeddings: the cut, both settings, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import PatchEncoder
from lostjax.nn.networks.patches import cut_patches

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
D = 8


def make(**more):
    model = PatchEncoder(4, D, n_heads=2, d_hidden=12, **more)
    return model, jax.jit(model.init)(jax.random.key(0), IMAGES)


def test_patches_are_cut_row_by_row():
    patches_BPM = cut_patches(IMAGES, patch=4)
    assert patches_BPM.shape == (2, 6, 48)
    expected = np.asarray(IMAGES[1, 4:8, 4:8]).ravel()  # second row, second column
    np.testing.assert_array_equal(patches_BPM[1, 4], expected)


def test_bare_patches_are_a_linear_map():
    model, variables = make()
    params = variables["params"]
    params["embed"]["bias"] = jnp.arange(D, dtype=jnp.float32)
    patches = np.asarray(cut_patches(IMAGES, patch=4))
    expected = patches @ np.asarray(params["embed"]["kernel"]) + np.arange(D)
    expected += np.asarray(params["positions"])
    np.testing.assert_allclose(
        model.apply(variables, IMAGES), expected, rtol=1e-5, atol=1e-5
    )
    assert set(params) == {"embed", "positions"}


@pytest.mark.parametrize("n_layers", [0, 2])
def test_only_an_encoder_mixes_patches(n_layers):
    model, variables = make(n_layers=n_layers)
    moved = IMAGES.at[:, 4:, 8:].add(1.0)  # the last patch alone
    before, after = (model.apply(variables, images) for images in (IMAGES, moved))
    change_P = np.abs(before - after).max(axis=(0, 2))
    assert change_P[-1] > 1e-3
    assert (change_P[:-1] > 1e-6).all() if n_layers else (change_P[:-1] == 0).all()


def test_an_encoder_tells_places_apart():
    model, variables = make(n_layers=1)
    swapped = jnp.concatenate([IMAGES[:, 4:], IMAGES[:, :4]], axis=1)
    here, there = (model.apply(variables, images) for images in (IMAGES, swapped))
    assert np.abs(here[:, :3] - there[:, 3:]).max() > 1e-4
    # Without positions it would not: attention is over a set.
    params = {**variables["params"], "positions": jnp.zeros((6, D))}
    here, there = (model.apply({"params": params}, x) for x in (IMAGES, swapped))
    np.testing.assert_allclose(here[:, :3], there[:, 3:], atol=1e-5)


def test_types():
    model, variables = make(n_layers=1, dtype=jnp.bfloat16)
    assert model.apply(variables, IMAGES).dtype == jnp.bfloat16
    types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert types == {jnp.dtype("float32")}


def test_sizes_that_do_not_fit_are_refused():
    for patch in (0, 5, 12):
        with pytest.raises(ValueError, match=f"patch={patch}: must divide"):
            PatchEncoder(patch, D).init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="n_heads=3: must divide d_model=8"):
        PatchEncoder(4, D, n_layers=1, n_heads=3).init(jax.random.key(0), IMAGES)
