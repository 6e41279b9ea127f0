"""Which arrays are matrices, by names that models really have, and how they lie."""

import jax.numpy as jnp
import numpy as np
import pytest
from optax import MaskedNode
from optax.contrib import MuonDimensionNumbers

from lostjax import optim
from lostjax.optim.splitting.cuts.views import view_matrices
from lostjax.optim.splitting.matrices import match_matrices

MATRICES = [
    "layers/attn/q/kernel",  # this library, scanned
    "layers/mlp/down/values",
    "layers/mlp/up/b",
    "layers_0/MultiHeadDotProductAttention_0/query/kernel",  # linen
    "layers_11/mlp/Dense_0/kernel",
    "transformer/h0_attn/multi_head_attention/query/w",  # haiku
    "transformer/h0_mlp/linear_1/w",
    "model.layers.0.self_attn.q_proj.weight",  # transformers
    "model.layers.0.mlp.down_proj.weight",
    "transformer/h/0/attn/c_attn/kernel",
    "bert/encoder/layer/0/attention/output/dense/kernel",
    "layers/0/attention/multihead/out/kernel",  # nnx
    "decoder/layers/self_attention/query/kernel",  # MaxText
]
NO_MATRICES = [
    "embed/embedding",
    "head/kernel",
    "layers/norm/scale",
    "layers/mlp/down/gamma",
    "Embed_0/embedding",
    "layers_0/LayerNorm_0/scale",
    "layers/MultiHeadDotProductAttention_0/query/bias",
    "transformer/token_embed/embeddings",
    "transformer/layer_norm/offset",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
    "transformer/wte/embedding",
    "transformer/ln_f/scale",
    "transformer/h/ln_1/weight",
    "bert/embeddings/word_embeddings/embedding",
    "classifier/kernel",
    "token_embedder/embedding",
    "decoder/logits_dense/kernel",
    "decoder/decoder_norm/scale",
    "unembed/kernel",
]


@pytest.mark.parametrize("name", MATRICES + NO_MATRICES)
def test_names_tell_matrices_from_embeddings_heads_and_norms(name):
    nest = leaf = {}
    *parts, last = name.split("/")
    for part in parts:
        leaf[part] = leaf = {}
    leaf[last] = np.ones((3, 4, 5))
    (found,) = match_matrices(nest, None)
    assert found == (MuonDimensionNumbers(-2, -1) if name in MATRICES else None)


def test_rank_decides_where_there_are_no_names():
    params = [np.ones((2, 3)), np.ones(3), np.ones((4, 2, 3)), np.ones(()), None]
    found = [numbers is not None for numbers in match_matrices(params, None)]
    assert found == [True, False, True, False]
    assert match_matrices(np.ones((2, 3)), None) == [MuonDimensionNumbers(-2, -1)]


def test_empty_arrays_are_no_matrices():
    assert match_matrices({"w": np.ones((0, 3))}, None) == [None]


def test_labels_are_a_tree_a_prefix_a_mask_or_a_function():
    params = {"a": {"w": np.ones((2, 3)), "v": np.ones((3, 2))}, "b": np.ones((2, 2))}
    numbers = MuonDimensionNumbers(0, 1)
    tree = {"a": {"w": numbers, "v": None}, "b": None}
    # Leaves in the order of the tree: a/v, a/w, b.
    assert match_matrices(params, tree) == [None, numbers, None]
    assert match_matrices(params, lambda p: tree) == [None, numbers, None]
    assert match_matrices(params, {"a": numbers, "b": None}) == [numbers] * 2 + [None]
    default = MuonDimensionNumbers(-2, -1)
    assert match_matrices(params, {"a": False, "b": True}) == [None, None, default]
    masked = {"a": {"w": params["a"]["w"], "v": MaskedNode()}, "b": MaskedNode()}
    assert match_matrices(masked, tree) == [numbers]


def test_a_tree_without_arrays_needs_no_labels():
    assert match_matrices({}, {"w": True}) == []


def test_none_in_the_parameters_shifts_no_label():
    params = {"a": None, "b": np.ones((2, 3)), "c": np.ones(3)}
    assert match_matrices(params, None) == [MuonDimensionNumbers(-2, -1), None]


def test_a_pattern_replaces_the_names():
    params = {"w": np.ones((2, 3)), "embed": np.ones((2, 3))}
    found = optim.find_matrices(params, full_state="w")
    assert found == {"w": None, "embed": MuonDimensionNumbers(-2, -1)}
    masked = {"w": MaskedNode(), "embed": params["embed"]}
    assert optim.find_matrices(masked, full_state="w")["embed"] is not None


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({"other": None}, "matrices: not a prefix"),
        ("columns", "matrices: contains 'columns'"),
        (lambda p: optim.find_matrices(p, full_state="head"), "full_state='head'.*'w'"),
    ],
)
def test_labels_that_do_not_fit_are_named(matrices, message):
    with pytest.raises(ValueError, match=message):
        match_matrices({"w": np.ones((2, 3))}, matrices)


@pytest.mark.parametrize(
    ("reduction", "output", "message"),
    [
        (0, 3, r"a/w of shape \(2, 3, 4\) has no axes 3"),
        ((), 1, "has no axes"),
        (1, (1, 2), "must be different"),
        (1, -2, "must be different"),
    ],
)
def test_axes_that_do_not_fit_are_named(reduction, output, message):
    with pytest.raises(ValueError, match=message):
        view_matrices((2, 3, 4), MuonDimensionNumbers(reduction, output), name="a/w")


def test_an_empty_matrix_is_named():
    with pytest.raises(ValueError, match="a/w of shape .* has no entries"):
        view_matrices((0, 3), MuonDimensionNumbers(0, 1), name="a/w")


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [
        ((-2, -1), "abcd->abcd"),
        ((0, 3), "abcd->bcad"),
        ((3, 1), "abcd->acdb"),
        ((1, (2, 3)), "abcd->abcd"),
        (((3, 0), 2), "abcd->bdac"),
        (((0, 1), (2, 3)), "abcd->abcd"),
    ],
)
def test_views_are_transposes(numbers, pattern):
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    view = view_matrices(x.shape, MuonDimensionNumbers(*numbers), name="x")
    matrices = view.to_matrices(jnp.asarray(x))
    expected = np.einsum(pattern, x).reshape(view.matrix_shape)
    np.testing.assert_array_equal(matrices, expected)
    np.testing.assert_array_equal(view.from_matrices(matrices), x)
    # A reduced stack has the rank of the array and its axes where they were, of merged
    # ones the last.
    reduced = matrices[..., :3, :2]
    state = view.to_state(reduced)
    assert state.ndim == x.ndim
    assert [state.shape[a] for a in view.batch] == [x.shape[a] for a in view.batch]
    kept = state.shape[view.reduction[-1]], state.shape[view.output[-1]]
    assert kept == reduced.shape[-2:]
    np.testing.assert_array_equal(view.from_state(state), reduced)
