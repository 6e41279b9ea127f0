"""Masks remove exact numbers of weights, the right ones, and only of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax import analysis
from lostjax.analysis import (
    apply_mask,
    erk_densities,
    erk_mask,
    essential_sparsity,
    magnitude_mask,
    mask_cosine,
    near_zero_count,
    nm_mask,
    random_mask,
    sparsity_of,
)

pytestmark = pytest.mark.newest
KEY = jax.random.key(0)


def make_params(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {
        "embed": {"embedding": (10, 4)},
        "layers": {"a": (2, 8, 4), "b": (2, 4, 12), "norm": (2, 8)},
        "head": {"kernel": (4, 10)},
    }
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def flat(mask):
    return np.concatenate([np.ravel(mask["layers"][name]) for name in "ab"])


SETTINGS = {
    "magnitude": lambda p, s: magnitude_mask(p, s),
    "random": lambda p, s: random_mask(p, s, key=KEY),
    "erk": lambda p, s: erk_mask(p, s, key=KEY),
}
every_mask = pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)


@every_mask
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.333, 0.5, 0.99])
def test_the_count_is_exact_and_only_matrices_are_cut(make, sparsity):
    params = make_params()
    mask = make(params, sparsity)
    assert (~flat(mask)).sum() == round(sparsity * 160)
    assert sparsity_of(mask) == pytest.approx(round(sparsity * 160) / 160)
    others = (mask["embed"]["embedding"], mask["layers"]["norm"], mask["head"])
    assert others == (True, True, {"kernel": True})


@every_mask
@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_the_count_is_exact_if_all_weights_are_equal(make, fill):
    params = jax.tree.map(lambda x: np.full_like(x, fill), make_params())
    assert (~flat(make(params, 0.4))).sum() == 64


@every_mask
def test_masks_of_one_source_are_nested(make):
    if make is SETTINGS["erk"]:
        pytest.skip("its densities change with the sparsity")
    fewer, more = (flat(make(make_params(), s)) for s in (0.3, 0.6))
    assert not np.any(more & ~fewer)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16, np.float64])
def test_a_sort_of_all_magnitudes_removes_the_same_weights(dtype):
    params = make_params(dtype)
    sizes = np.abs(flat(params).astype(np.float64))
    expected = np.ones(160, bool)
    expected[np.argsort(sizes, kind="stable")[:53]] = False  # the earliest of equals
    np.testing.assert_array_equal(flat(magnitude_mask(params, 53 / 160)), expected)


def test_torch_removes_the_same_weights():
    torch = pytest.importorskip("torch")
    prune = pytest.importorskip("torch.nn.utils.prune")
    params = make_params()
    module = torch.nn.Module()
    names = ("a", "b")
    for name in names:
        tensor = torch.from_numpy(params["layers"][name])
        module.register_parameter(name, torch.nn.Parameter(tensor))
    prune.global_unstructured(
        [(module, name) for name in names],
        pruning_method=prune.L1Unstructured,
        amount=0.37,
    )
    mask = magnitude_mask(params, 0.37)
    for name in names:
        theirs = getattr(module, f"{name}_mask").numpy().astype(bool)
        np.testing.assert_array_equal(mask["layers"][name], theirs)


def test_nan_is_removed_last():
    params = make_params()
    params["layers"]["a"][0, 0, 0] = np.nan
    mask = magnitude_mask(params, 159 / 160)
    assert mask["layers"]["a"][0, 0, 0] and flat(mask).sum() == 1


@pytest.mark.parametrize("keep, of", [(1, 2), (2, 4), (1, 4), (3, 4), (4, 4)])
def test_each_group_of_inputs_keeps_its_largest(keep, of):
    params = make_params()
    mask = nm_mask(params, keep=keep, of=of)
    for name in "ab":
        weights, kept = params["layers"][name], mask["layers"][name]
        layers, inputs, outputs = weights.shape
        shape = (layers, inputs // of, of, outputs)
        groups, held = np.abs(weights).reshape(shape), kept.reshape(shape)
        assert np.all(held.sum(axis=2) == keep)
        smallest_kept = np.where(held, groups, np.inf).min(axis=2)
        largest_removed = np.where(held, 0, groups).max(axis=2)
        assert np.all(smallest_kept > largest_removed)


def test_groups_of_equal_weights_keep_their_number_too():
    params = jax.tree.map(np.zeros_like, make_params())
    mask = nm_mask(params, keep=2, of=4)
    assert np.all(mask["layers"]["a"].reshape(2, 2, 4, 4).sum(axis=2) == 2)


def test_erk_densities_follow_the_rule_and_keep_the_total():
    densities = erk_densities(make_params(), 0.8)
    a, b = densities["layers"]["a"], densities["layers"]["b"]
    assert a / b == pytest.approx((12 / 32) / (16 / 48))
    assert a * 64 + b * 96 == pytest.approx(0.2 * 160)
    assert densities["head"]["kernel"] == 1.0
    small = {"w": np.ones((2, 2)), "v": np.ones((50, 50))}
    densities = erk_densities(small, 0.5)  # the small one would keep more than all
    assert densities["w"] == 1.0
    assert densities["v"] * 2500 + 4 == pytest.approx(0.5 * 2504)
    assert erk_densities(small, 0) == {"w": 1.0, "v": 1.0}
    mask = erk_mask(small, 0.5, key=KEY)
    assert mask["w"].all() and mask["v"].sum() == 1248


def test_a_mask_lies_as_its_parameter_and_zeroes_it():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P(None, "x"))
    params = jax.tree.map(jnp.asarray, make_params())
    params["layers"]["a"] = jax.device_put(params["layers"]["a"], rows)
    mask = magnitude_mask(params, 0.25)
    assert mask["layers"]["a"].sharding == rows
    np.testing.assert_array_equal(flat(mask), flat(magnitude_mask(make_params(), 0.25)))
    pruned = apply_mask(params, mask)
    assert pruned["layers"]["a"].sharding.is_equivalent_to(rows, 3)
    assert pruned["head"]["kernel"] is params["head"]["kernel"]
    assert near_zero_count(pruned, tolerance=0) == (40, 160)
    assert near_zero_count(pruned, tolerance=10) == (160, 160)
    bad = jax.tree.map(lambda x: x * np.nan, params)
    assert np.all(flat(apply_mask(bad, mask))[~flat(mask)] == 0)


def test_unrelated_masks_have_the_cosine_of_chance():
    params = {"w": np.ones((100, 100))}
    first, second = (
        random_mask(params, s, key=jax.random.key(i)) for i, s in enumerate((0.2, 0.5))
    )
    assert mask_cosine(first, second) == pytest.approx(np.sqrt(0.8 * 0.5), abs=0.02)
    assert mask_cosine(first, first) == pytest.approx(1)
    none = {"w": np.zeros((100, 100), bool)}
    assert mask_cosine(first, none) == 0
    with pytest.raises(ValueError, match="second: has other arrays"):
        mask_cosine(first, {"w": np.ones((3, 3), bool)})


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda p: magnitude_mask(p, 1.0), r"sparsity=1.0: must lie in \[0, 1\)"),
        (lambda p: random_mask(p, -0.1, key=KEY), "sparsity=-0.1"),
        (lambda p: erk_densities(p, float("nan")), "sparsity=nan"),
        (lambda p: nm_mask(p, keep=5, of=4), r"keep=5: must lie in \[1, 4\]"),
        (lambda p: nm_mask(p, keep=2, of=3), "of=3: does not divide the 8 inputs of"),
        (lambda p: magnitude_mask({"bias": p["head"]}, 0.1), "holds no matrix"),
        (lambda p: near_zero_count(p, tolerance=-1), "tolerance=-1"),
        (
            lambda p: magnitude_mask({"w": np.ones((2, 2), complex)}, 0.1),
            "w: complex128: only real",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(make_params())


PLACES = [0, 0.1, 0.2, 0.3, 0.4]


def test_the_end_of_the_plateau_is_interpolated_within_an_interval():
    scores = [[1, 1, 1, 0.98, 0.9], [1, 1, 1.01, 0.95, 0.9]]
    found = essential_sparsity(PLACES, scores, tolerance=0.01)
    assert found.tested == 0.2 and not found.is_censored
    mean = np.mean(scores, axis=0)
    assert found.sparsity == pytest.approx(
        0.2 + 0.1 * (mean[2] - 0.99) / (mean[2] - mean[3])
    )
    ends = (0.25, 0.2 + 0.1 * 0.02 / 0.06)
    assert found.low == pytest.approx(np.quantile(ends, 0.025))
    assert found.high == pytest.approx(np.quantile(ends, 0.975))
    assert found.slope_after == pytest.approx(np.polyfit(PLACES[2:], mean[2:], 1)[0])
    assert found.slope_before == pytest.approx(np.polyfit(PLACES[:3], mean[:3], 1)[0])


def test_a_plateau_that_does_not_end_is_censored():
    found = essential_sparsity(PLACES, [1, 1, 1, 1, 1])
    assert found[:3] == (0.4, 0.4, True)
    assert np.isnan(found.slope_after)


def test_a_score_that_recovers_is_not_on_the_plateau():
    found = essential_sparsity(PLACES, [1, 0.9, 1, 1, 0.9])
    assert found.tested == 0 and 0 < found.sparsity < 0.1


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_model_that_breaks_ends_the_plateau(bad):
    found = essential_sparsity(PLACES, [1, 1, bad, 1, 1])
    assert found.sparsity == found.tested == 0.1


def test_a_loss_is_judged_by_its_share():
    found = essential_sparsity(
        PLACES, -np.array([2, 2.01, 2.05, 3, 4]), tolerance=0.01, relative=True
    )
    assert found.sparsity == pytest.approx(0.1 + 0.1 * 0.01 / 0.04)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sparsities": [0, 0.5], "scores": [1, 1]}, "needs 3 or more"),
        ({"sparsities": [0.1, 0.2, 0.3, 0.4, 0.5]}, "must rise from 0"),
        ({"sparsities": [0, 0.2, 0.2, 0.4, 0.5]}, "must rise from 0"),
        ({"sparsities": [0, 0.2, 0.3, 0.4, 1.0]}, "below 1"),
        ({"scores": [1, 1]}, "scores: shape"),
        ({"scores": [np.nan, 1, 1, 1, 1]}, "scores: the first one"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"confidence": 1}, "confidence=1"),
    ],
)
def test_curves_that_have_no_plateau_are_refused(change, words):
    given = {"sparsities": PLACES, "scores": [1, 1, 1, 1, 1]} | change
    with pytest.raises(ValueError, match=words):
        analysis.essential_sparsity(
            given.pop("sparsities"), given.pop("scores"), **given
        )
