"""The cache changes nothing; sampling obeys temperature, top-k, top-p and the key."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import (
    Dense,
    LowRankSparse,
    Transformer,
    Ungrouped,
    cut_logits,
    sample_tokens,
    streaming,
)
from lostjax.nn.decoding import read_on
from lostjax.nn.streaming import stream_tokens

LINEAR = {
    "dense": Ungrouped(Dense),
    "lost": partial(LowRankSparse, rank=4, delta=0.25),
}
TOKENS_BT = jax.random.randint(jax.random.key(3), (2, 9), 0, 23)


def make(name):
    model = Transformer(23, 16, 2, 2, 24, linear=LINEAR[name], qk_norm=True)
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS_BT)
    params = jax.tree.map(lambda w: 3 * w, variables["params"])
    return model, {**variables, "params": params}


@pytest.fixture(scope="module")
def dense():
    return make("dense")


@pytest.mark.parametrize("length, temperature, top_k", [(4, 0.0, None), (7, 0.9, 5)])
def test_a_stream_yields_the_tokens_of_the_whole(dense, length, temperature, top_k):
    options = {
        "prompt_BT": TOKENS_BT[:, :length],
        "n_tokens": 6,
        "key": jax.random.key(4),
        "temperature": temperature,
        "top_k": top_k,
    }
    whole = sample_tokens(*dense, **options)[:, length:]
    stream = list(stream_tokens(*dense, **options))
    np.testing.assert_array_equal(np.stack(stream, axis=1), whole)


def test_a_stream_compiles_for_two_lengths_of_prompts(dense, monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_PIECE", 3)
    before = read_on._cache_size()
    for length in (9, 1, 2, 4, 8):
        options = {"prompt_BT": TOKENS_BT[:1, :length], "temperature": 0.0}
        options |= {"n_tokens": 2, "key": jax.random.key(4)}
        whole = sample_tokens(*dense, **options)[:, length:]
        stream = list(stream_tokens(*dense, **options))
        np.testing.assert_array_equal(np.stack(stream, axis=1), whole)
    assert read_on._cache_size() - before == 3, "of 1, 3 and 9 tokens"


def test_a_prefix_is_read_before_the_prompt(dense):
    table_VD = dense[1]["params"]["embed"]["embedding"]
    options = {"n_tokens": 5, "key": jax.random.key(4), "temperature": 0.0}
    whole = sample_tokens(*dense, prompt_BT=TOKENS_BT[:, :7], **options)
    split = {
        "prompt_BT": TOKENS_BT[:, 4:7],
        "prefix_BPD": table_VD[TOKENS_BT[:, :4]],
        **options,
    }
    np.testing.assert_array_equal(sample_tokens(*dense, **split)[:, 3:], whole[:, 7:])
    stream = list(stream_tokens(*dense, **split))
    np.testing.assert_array_equal(np.stack(stream, axis=1), whole[:, 7:])


@pytest.mark.parametrize("name", LINEAR)
def test_cached_logits_equal_the_full_forward(name):
    model, variables = make(name)
    expected_BTV = jax.jit(model.apply)(variables, TOKENS_BT)
    cached = model.clone(cache_length=11)

    @jax.jit
    def advance(cache, tokens_BT):
        return cached.apply({**variables, **cache}, tokens_BT, mutable=["cache"])

    logits_BTV, cache = advance({}, TOKENS_BT[:, :6])
    np.testing.assert_allclose(logits_BTV, expected_BTV[:, :6], atol=1e-5)
    for t in range(6, 9):
        logits_BTV, cache = advance(cache, TOKENS_BT[:, t : t + 1])
        np.testing.assert_allclose(logits_BTV[:, 0], expected_BTV[:, t], atol=1e-5)
    assert cache["cache"]["length"] == 9


def test_greedy_takes_the_likeliest_token_each_time(dense):
    model, variables = dense
    got = sample_tokens(
        model,
        variables,
        prompt_BT=TOKENS_BT[:, :3],
        n_tokens=6,
        key=jax.random.key(0),
        temperature=0.0,
    )
    assert got.shape == (2, 9)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got[:, :3], TOKENS_BT[:, :3])
    # One causal pass over the result checks every step.
    logits_BTV = jax.jit(model.apply)(variables, got)
    np.testing.assert_array_equal(got[:, 3:], np.argmax(logits_BTV[:, 2:-1], -1))


def test_the_key_decides(dense):
    def draw(seed, **options):
        return sample_tokens(
            *dense,
            prompt_BT=TOKENS_BT[:1, :2],
            n_tokens=8,
            key=jax.random.key(seed),
            **options,
        )

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()
    # Greedy uses no randomness, and a top-k of one is greedy.
    greedy = draw(1, temperature=0.0)
    np.testing.assert_array_equal(greedy, draw(2, temperature=0.0))
    np.testing.assert_array_equal(greedy, draw(3, temperature=2.0, top_k=1))
    np.testing.assert_array_equal(greedy, draw(4, top_p=1e-6))


def test_tokens_follow_the_model_distribution(dense):
    model, variables = dense
    prompt_BT = jnp.broadcast_to(TOKENS_BT[:1, :4], (4000, 4))
    got = sample_tokens(
        model,
        variables,
        prompt_BT=prompt_BT,
        n_tokens=1,
        key=jax.random.key(5),
        temperature=0.5,
        top_k=6,
    )
    logits_V = jax.jit(model.apply)(variables, prompt_BT[:1])[0, -1] / 0.5
    expected = np.exp(logits_V - logits_V.max()) * (logits_V >= np.sort(logits_V)[-6])
    expected /= expected.sum()
    observed = np.bincount(got[:, -1], minlength=23) / 4000
    assert (observed[expected == 0] == 0).all()
    # Five standard errors of a share.
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs(observed - expected) <= 5 * error).all()


PROBABILITIES = np.array([[0.1, 0.4, 0.2, 0.3], [0.85, 0.05, 0.05, 0.05]])
CUTS = [
    ({}, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    ({"top_k": 2}, [[0, 1, 0, 1], [1, 1, 1, 1]]),
    ({"top_k": 4}, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    ({"top_p": 0.39}, [[0, 1, 0, 0], [1, 0, 0, 0]]),
    ({"top_p": 0.65}, [[0, 1, 0, 1], [1, 0, 0, 0]]),
    ({"top_p": 0.75}, [[0, 1, 1, 1], [1, 0, 0, 0]]),
    ({"top_p": 1.0}, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    # .4 and .3 alone are .57 and .43: the first reaches a half by itself.
    ({"top_k": 2, "top_p": 0.5}, [[0, 1, 0, 0], [1, 0, 0, 0]]),
]


@pytest.mark.parametrize("options, kept", CUTS)
def test_unlikely_tokens_are_cut(options, kept):
    logits_BV = jnp.log(PROBABILITIES)
    cut_BV = cut_logits(logits_BV, **options)
    np.testing.assert_array_equal(np.isfinite(cut_BV), np.array(kept, bool))
    kept = np.isfinite(cut_BV)
    np.testing.assert_array_equal(cut_BV[kept], logits_BV[kept])


BAD = [
    ({"n_tokens": 0}, "n_tokens=0"),
    ({"temperature": -0.1}, "temperature=-0.1"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"top_k": 0}, "top_k=0"),
    ({"top_k": 24}, "top_k=24"),
    ({"top_p": 0.0}, "top_p=0.0"),
    ({"top_p": 1.5}, "top_p=1.5"),
    ({"prompt_BT": TOKENS_BT[:, :0]}, "prompt_BT"),
]


@pytest.mark.parametrize("changed, message", BAD)
def test_bad_arguments_are_refused(dense, changed, message):
    options = {"prompt_BT": TOKENS_BT, "n_tokens": 2, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=message):
        sample_tokens(*dense, **(options | changed))
