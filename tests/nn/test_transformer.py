"""The model: equal to transformers' LLaMA, causal, blind to other documents."""

import functools
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import nn
from lostjax.nn import Dense, LowRank, LowRankSparse, SLTrain, Transformer, Ungrouped

GOLDEN = pathlib.Path(__file__).with_name("goldens") / "llama.npz"
SIZES = {"vocab_size": 40, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_hidden": 24}
LOST = partial(LowRankSparse, rank=4, delta=0.25)
LINEAR = {
    "dense": Ungrouped(Dense),
    "low_rank": Ungrouped(partial(LowRank, rank=4)),
    "sltrain": Ungrouped(partial(SLTrain, rank=4, delta=0.1)),
    "lost": LOST,
    "lost, gamma learnt": partial(LOST, learn_gamma=True),
}
NOTHING = jax.checkpoint_policies.nothing_saveable
# Every id once in a row, so that the gradient of the embedding tells positions apart.
TOKENS_BT = jnp.stack([jnp.arange(12), jnp.arange(39, 27, -1)])
SEGMENTS_BT = jnp.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 2 + [2] * 9 + [3]])
POSITIONS_BT = jnp.array([[*range(5), *range(4), *range(3)], [*range(2), *range(9), 0]])


@functools.cache
def make(linear="lost", **options):
    """A small model and its variables, with weights large enough to matter."""
    model = Transformer(**(SIZES | options), linear=LINEAR.get(linear, linear))
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS_BT)
    params = jax.tree.map(lambda w: 3 * w, variables["params"])
    return model, {**variables, "params": params}


def run(model, variables, tokens_BT=TOKENS_BT, **inputs):
    """The logits, compiled."""
    return jax.jit(model.apply)(variables, tokens_BT, **inputs)


@pytest.fixture(scope="module")
def lost():
    return make()


def test_dense_logits_equal_transformers_llama():
    golden = np.load(GOLDEN)

    def stack(name):
        return jnp.stack(
            [golden[f"model.layers.{i}.{name}.weight"].T for i in range(2)]
        )

    params = {
        "embed": {"embedding": golden["model.embed_tokens.weight"]},
        "layers": {
            "attention_norm": {"scale": stack("input_layernorm")},
            "mlp_norm": {"scale": stack("post_attention_layernorm")},
            "attention": {
                name: {"kernel": stack(f"self_attn.{name}_proj")} for name in "qkvo"
            },
            "mlp": {
                name: {"kernel": stack(f"mlp.{name}_proj")}
                for name in ("gate", "up", "down")
            },
        },
        "final_norm": {"scale": golden["model.norm.weight"]},
        "head": {"kernel": golden["lm_head.weight"].T},
    }
    model = Transformer(53, 32, 2, 4, 88, rope_theta=500.0, norm_eps=1e-5)
    logits_BTV = run(model, {"params": params}, golden["tokens"])
    assert np.std(golden["logits"]) > 1
    np.testing.assert_allclose(logits_BTV, golden["logits"], atol=1e-4, rtol=0)


def test_parameter_paths():
    _, variables = make("lost, gamma learnt", qk_norm=True)
    paths = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    expected = {
        "embed/embedding": (40, 16),
        "layers/attention/q_norm/scale": (2, 8),
        "layers/attention/k_norm/scale": (2, 8),
        "layers/attention_norm/scale": (2, 16),
        "layers/mlp_norm/scale": (2, 16),
        "final_norm/scale": (16,),
        "head/kernel": (16, 40),
    }
    maps = {f"attention/{name}": (16, 16) for name in "qkvo"}
    maps |= {"mlp/gate": (16, 24), "mlp/up": (16, 24), "mlp/down": (24, 16)}
    for name, (n_inputs, n_outputs) in maps.items():
        kept = n_inputs // 4
        expected[f"layers/{name}/a"] = (2, n_inputs, 4)
        expected[f"layers/{name}/b"] = (2, 4, n_outputs)
        expected[f"layers/{name}/values"] = (2, kept, n_outputs)
        expected[f"layers/{name}/gamma"] = (2,)
    expected = {f"params/{name}": shape for name, shape in expected.items()}
    for name, (n_inputs, _) in maps.items():
        expected[f"channels/layers/{name}/kept"] = (2, n_inputs // 4)
    assert paths == expected


def test_layers_start_different():
    _, variables = make()
    for leaf in jax.tree.leaves(variables["params"]["layers"]["mlp"]["up"]):
        assert not np.array_equal(leaf[0], leaf[1])
    kept_LC = variables["channels"]["layers"]["mlp"]["up"]["kept"]
    assert not np.array_equal(kept_LC[0], kept_LC[1])


def embedding_gradient(model, variables, row, position, **inputs):
    """How much each token of a row moves the logits at a position."""

    @jax.jit
    @jax.grad
    def gradient(table, row, position):
        params = {**variables["params"], "embed": {"embedding": table}}
        variables_ = {**variables, "params": params}
        logits_BTV = model.apply(variables_, TOKENS_BT, **inputs)
        return jnp.sum(jnp.sin(logits_BTV[row, position]))

    table_VD = variables["params"]["embed"]["embedding"]
    moved_V = np.abs(gradient(table_VD, row, position)).max(axis=1)
    return moved_V[np.asarray(TOKENS_BT[row])]


def test_no_token_sees_the_future(lost):
    moved_T = embedding_gradient(*lost, row=0, position=6)
    assert (moved_T[:7] > 0).all()
    assert (moved_T[7:] == 0).all()


@pytest.mark.parametrize("row, position, seen", [(0, 7, slice(5, 8)), (1, 11, [11])])
def test_no_token_sees_another_document(lost, row, position, seen):
    moved_T = embedding_gradient(
        *lost, row=row, position=position, segments_BT=SEGMENTS_BT
    )
    inside = np.zeros(12, bool)
    inside[seen] = True
    assert (moved_T[inside] > 0).all()
    assert (moved_T[~inside] == 0).all()


def test_packed_documents_equal_separate_ones(lost):
    model, variables = lost
    packed_BTV = run(
        model, variables, TOKENS_BT, segments_BT=SEGMENTS_BT, positions_BT=POSITIONS_BT
    )
    for row, start, stop in [(0, 0, 5), (0, 5, 9), (1, 2, 11)]:
        alone_BTV = run(model, variables, TOKENS_BT[row : row + 1, start:stop])
        np.testing.assert_allclose(packed_BTV[row, start:stop], alone_BTV[0], atol=1e-5)


def test_one_segment_is_the_default(lost):
    model, variables = lost
    default = run(model, variables)
    ones = jnp.ones_like(TOKENS_BT)
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    given = run(model, variables, TOKENS_BT, segments_BT=ones, positions_BT=positions)
    np.testing.assert_allclose(given, default, atol=1e-6)
    shifted = run(
        model, variables, TOKENS_BT, segments_BT=ones, positions_BT=2 * positions
    )
    assert np.abs(shifted - default).max() > 1e-3


def test_padding_is_finite():
    model, variables = make("dense")

    def total(params):
        logits_BTV = model.apply(
            {**variables, "params": params},
            TOKENS_BT,
            segments_BT=jnp.zeros_like(TOKENS_BT),
        )
        return jnp.sum(jnp.square(logits_BTV))

    value, gradient = jax.jit(jax.value_and_grad(total))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def test_remat_changes_memory_and_nothing_else(lost):
    plain, variables = lost
    saved = nn.activation_bytes(plain, batch_size=2, length=12)

    def gradient(model):
        def loss(params):
            logits_BTV = model.apply({**variables, "params": params}, TOKENS_BT)
            return jnp.mean(jax.nn.logsumexp(logits_BTV, axis=-1))

        return jax.jit(jax.grad(loss))(variables["params"])

    expected = gradient(plain)
    for policy in [nn.save_products, nn.save_bottlenecks, NOTHING]:
        model = plain.clone(remat=policy)
        less = nn.activation_bytes(model, batch_size=2, length=12)
        assert less < saved
        saved = less
        for got, want in zip(
            jax.tree.leaves(gradient(model)), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("linear", ["dense", "sltrain", "lost, gamma learnt"])
def test_bfloat16_computes_near_float32(linear):
    model, variables = make(linear)
    exact = run(model, variables)
    half = model.clone(dtype=jnp.bfloat16)
    got = run(half, variables)
    assert got.dtype == jnp.float32
    assert 0 < np.std(got - exact) < 0.05 * np.std(exact)
    # Not by luck: rows are multiplied in bfloat16, everywhere.
    jaxpr = jax.make_jaxpr(half.apply)(variables, TOKENS_BT).jaxpr
    operands = [
        eqn.invars[0].aval
        for eqn in equations(jaxpr)
        if eqn.primitive.name == "dot_general"
    ]
    rows = [aval for aval in operands if aval.shape[0] == TOKENS_BT.size]
    assert len(rows) >= 8
    assert {aval.dtype for aval in rows} == {jnp.dtype("bfloat16")}
    initial = jax.eval_shape(half.init, jax.random.key(0), TOKENS_BT)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}


def equations(jaxpr):
    """All equations of a jaxpr, those of inner ones too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def test_the_swiglu_activation_can_be_dropped():
    model, variables = make("dense")
    kept = run(model, variables)
    dropped = run(model.clone(mlp_activation=None), variables)
    assert np.abs(kept - dropped).max() > 1e-3
    # Without it the MLP is bilinear: gate and up may trade places.
    mlp = variables["params"]["layers"]["mlp"]
    swapped = {**mlp, "gate": mlp["up"], "up": mlp["gate"]}
    layers = {**variables["params"]["layers"], "mlp": swapped}
    other = {"params": {**variables["params"], "layers": layers}}
    np.testing.assert_allclose(
        run(model.clone(mlp_activation=None), other), dropped, atol=1e-5
    )
    assert np.abs(run(model, other) - kept).max() > 1e-3


def test_qk_norm_makes_the_scale_of_queries_irrelevant():
    def logits(model, variables, scale):
        attention = variables["params"]["layers"]["attention"]
        attention = {**attention, "q": {"kernel": scale * attention["q"]["kernel"]}}
        layers = {**variables["params"]["layers"], "attention": attention}
        params = {**variables["params"], "layers": layers}
        return run(model, {"params": params})

    normed = make("dense", qk_norm=True)
    np.testing.assert_allclose(logits(*normed, 9.0), logits(*normed, 3.0), atol=1e-4)
    plain = make("dense")
    assert np.abs(logits(*plain, 9.0) - logits(*plain, 3.0)).max() > 1e-3


def test_the_residual_stream_is_constrained_after_embedding_and_blocks(lost):
    model, variables = lost
    seen = []

    def halve(x_BTD):
        seen.append(x_BTD.shape)
        return 0.5 * x_BTD

    changed = run(model.clone(constrain=halve), variables)
    # Once for the embedding; the scanned block may be traced more than once.
    assert len(seen) >= 2
    assert set(seen) == {(2, 12, 16)}
    assert np.abs(changed - run(model, variables)).max() > 1e-3


def test_channel_groups_reach_the_row_parallel_matrices():
    asked = {}

    def linear(*, name, channel_groups, **rest):
        asked[name] = channel_groups
        return LOST(name=name, channel_groups=channel_groups, **rest)

    model = Transformer(**SIZES, linear=linear, channel_groups=2)
    jax.eval_shape(model.init, jax.random.key(0), TOKENS_BT)
    assert asked == {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 2}


BAD = {
    "d_model=16": ({"n_heads": 3}, {}),
    "d_head=1": ({"n_heads": 16}, {}),
    "segments_BT": ({"cache_length": 12}, {"segments_BT": SEGMENTS_BT}),
    "cache_length=11": ({"cache_length": 11}, {}),
}


@pytest.mark.parametrize("message", BAD)
def test_sizes_that_do_not_fit_are_refused(message):
    options, inputs = BAD[message]
    model = Transformer(**(SIZES | options))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(model.init, **inputs), jax.random.key(0), TOKENS_BT)


def embed(variables, tokens_BT):
    return variables["params"]["embed"]["embedding"][tokens_BT]


def test_a_prefix_of_embedded_tokens_equals_tokens(lost):
    model, variables = lost
    whole_BTV = run(model, variables)
    prefix_BPD = embed(variables, TOKENS_BT[:, :5])
    got = run(model, variables, TOKENS_BT[:, 5:], prefix_BPD=prefix_BPD)
    np.testing.assert_allclose(got, whole_BTV[:, 5:], atol=1e-5)
    # Packed: the prefix belongs to the first document and to no other.
    packed = {"segments_BT": SEGMENTS_BT, "positions_BT": POSITIONS_BT}
    whole_BTV = run(model, variables, **packed)
    rest = {name: value[:, 1:] for name, value in packed.items()}
    got = run(model, variables, TOKENS_BT[:, 1:], prefix_BPD=prefix_BPD[:, :1], **rest)
    np.testing.assert_allclose(got, whole_BTV[:, 1:], atol=1e-5)


def test_a_prefix_adds_no_parameters_and_has_a_gradient(lost):
    model, variables = lost
    prefix_BPD = embed(variables, TOKENS_BT[:, :3])
    made = jax.eval_shape(
        partial(model.init, prefix_BPD=prefix_BPD), jax.random.key(0), TOKENS_BT
    )
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    def first_logits(prefix_BPD):
        return jnp.sum(jnp.sin(run(model, variables, prefix_BPD=prefix_BPD)[:, 0]))

    moved_P = np.abs(jax.grad(first_logits)(prefix_BPD)).max(axis=(0, 2))
    assert (moved_P > 0).all()


def test_a_prefix_of_another_width_is_refused(lost):
    with pytest.raises(ValueError, match=r"prefix_BPD has shape \(2, 3, 8\)"):
        run(*lost, prefix_BPD=jnp.zeros((2, 3, 8)))
