"""Attribution equals that of captum and of ReAGent's authors, on a small LLaMA."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import analysis
from lostjax.nn import Transformer, attention_maps, embed_tokens, embedded_logits

HERE = pathlib.Path(__file__).parent
PATH = HERE / "goldens" / "attribution.json"
T, TARGET, BASELINE, POINTS = 12, 42, 0, 32
PROBES, MOST, RATIO, TOP_K = 3, 6, 0.3, 3
IMPORTANCE_T = jnp.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1.0])
CLOSE = {"rtol": 2e-3, "atol": 2e-5}


@functools.cache
def make_model():
    """The model of llama.npz, its variables and the first tokens of a row."""
    golden = np.load(HERE.parent / "nn" / "goldens" / "llama.npz")

    def stack(name):
        return jnp.stack(
            [golden[f"model.layers.{i}.{name}.weight"].T for i in range(2)]
        )

    params = {
        "embed": {"embedding": jnp.asarray(golden["model.embed_tokens.weight"])},
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
    params = jax.tree.map(jnp.asarray, params)
    return model, {"params": params}, jnp.asarray(golden["tokens"][0, :T])


def probs(tokens_BT):
    model, variables, _ = make_model()
    return jax.nn.softmax(model.apply(variables, tokens_BT)[:, -1])


def logits(x_TD):
    model, variables, _ = make_model()
    return embedded_logits(model, variables, x_TD=x_TD)


def run_reagent(tell=lambda tokens_BT: None):
    """ReAGent as the golden has it; `tell` is called with the rows that are read."""

    def told(tokens_BT):
        tell(tokens_BT)
        return probs(tokens_BT)

    return analysis.reagent(
        told, make_model()[2], target=TARGET, sampler=analysis.uniform_sampler(53),
        key=jax.random.key(0), replace_ratio=RATIO, keep_ratio=RATIO, top_k=TOP_K,
        n_probes=PROBES, max_steps=MOST,
    )  # fmt: skip


@functools.cache
def read():
    return json.loads(PATH.read_text())


@pytest.mark.parametrize("name", ["gradient_norm", "gradient_times_input"])
def test_gradients_equal_those_of_captum(name):
    _, variables, tokens_T = make_model()
    measure = jax.jit(functools.partial(getattr(analysis, name), logits, target=TARGET))
    found_T = measure(embed_tokens(variables, tokens_T))
    np.testing.assert_allclose(found_T, read()["captum"][name], **CLOSE)


def test_integrated_gradients_equal_those_of_captum():
    _, variables, tokens_T = make_model()
    found = jax.jit(
        lambda x_TD: analysis.integrated_gradients(
            logits, x_TD, target=TARGET, n_points=POINTS
        )
    )(embed_tokens(variables, tokens_T))
    want_T = read()["captum"]["integrated_gradients"]
    np.testing.assert_allclose(found.scores_T, want_T, **CLOSE)


def test_occlusion_equals_the_feature_ablation_of_captum():
    found_T = jax.jit(
        lambda tokens_T: analysis.occlusion_scores(
            probs, tokens_T, target=TARGET, replacement=BASELINE
        )
    )(make_model()[2])
    np.testing.assert_allclose(found_T, read()["captum"]["occlusion"], **CLOSE)


def test_attention_equals_that_of_transformers():
    model, variables, tokens_T = make_model()
    maps_LHTS = attention_maps(model, variables, tokens_BT=tokens_T[None])[0]
    want = read()["transformers"]
    np.testing.assert_allclose(
        analysis.attention_scores(maps_LHTS), want["attention"], **CLOSE
    )
    np.testing.assert_allclose(
        analysis.attention_rollout(maps_LHTS), want["rollout"], **CLOSE
    )


def test_reagent_equals_that_of_its_authors_with_the_same_draws():
    want = read()["authors"]
    found = jax.jit(run_reagent)()
    steps, stopped = np.transpose(want["steps"])
    np.testing.assert_array_equal(found.steps_P, steps)
    np.testing.assert_array_equal(found.stopped_P, stopped)
    assert stopped.any() and len(set(steps)) > 1
    counted_PT = np.array(want["scores"])[stopped.astype(bool)]
    np.testing.assert_allclose(found.scores_T, counted_PT.mean(axis=0), **CLOSE)


def test_faithfulness_is_the_root_of_that_of_the_authors():
    """Theirs is sqrt 2 times the square of Hellinger's distance."""
    _, variables, tokens_T = make_model()
    x_TD = embed_tokens(variables, tokens_T)
    options = {"importance_T": IMPORTANCE_T, "key": jax.random.key(0), "n_samples": 1}
    want = read()["authors"]

    def root(distance):
        return np.sqrt(distance / np.sqrt(2))

    kept = analysis.soft_sufficiency(logits, x_TD, **options)
    changed = analysis.soft_comprehensiveness(logits, x_TD, **options)
    np.testing.assert_allclose(1 - kept, root(1 - want["soft_sufficiency"]), rtol=1e-4)
    np.testing.assert_allclose(changed, root(want["soft_comprehensiveness"]), rtol=1e-4)
    nothing = root(1 - want["sufficiency_of_nothing"])
    np.testing.assert_allclose(
        analysis.normalised_comprehensiveness(logits, x_TD, **options),
        root(want["soft_comprehensiveness"]) / nothing,
        rtol=1e-4,
    )
