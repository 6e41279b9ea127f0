"""ReAGent against its recipe in NumPy, with planted dependencies, and where it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.analysis import (
    host_probs,
    ngram_sampler,
    reagent,
    uniform_sampler,
    unigram_sampler,
)

V, T = 7, 5
TOKENS_T = jnp.array([3, 1, 4, 1, 5])
KEY = jax.random.key(0)


def planted(at, *, strength=6.0, tokens_T=TOKENS_T, vocab_size=V):
    """The next token is 2 if the token at one position is what it is here."""

    def probs(tokens_BT):
        hit_B = tokens_BT[:, at] == tokens_T[at]
        logits_BV = jnp.where(hit_B[:, None], strength, 0) * (
            jnp.arange(vocab_size) == 2
        )
        # No ties: a sort and a count would break them in another way.
        return jax.nn.softmax(logits_BV - 0.01 * jnp.arange(vocab_size))

    return probs


def numpy_recipe(probs, key, sampler, *, ratio, n_kept, top_k, P, most, clip):
    """The authors' recipe as loops over probes and positions."""
    tokens = np.asarray(TOKENS_T)
    start_key, key = jax.random.split(key)
    scores = np.array(jax.random.uniform(start_key, (P, T)), np.float64)
    stopped, steps = [False] * P, [0] * P
    p = float(probs(jnp.array([tokens]))[0, 2])
    for number in range(most):
        if all(stopped):
            break
        masks, draws, tests = jax.random.split(jax.random.fold_in(key, number), 3)
        replaced = np.asarray(jax.random.bernoulli(masks, ratio, (P, T)))
        keys, test_keys = jax.random.split(draws, P), jax.random.split(tests, P)
        for i in range(P):
            if stopped[i]:
                continue
            steps[i] += 1
            tried = np.where(replaced[i], sampler(keys[i], TOKENS_T), tokens)
            fall = p - float(probs(jnp.array([tried]))[0, 2])
            for j in range(T):
                share = ((fall if replaced[i, j] else -fall) + 1) / 2
                share = min(max(share, clip), 1 - clip)
                scores[i, j] += np.log(share / (1 - share))
            kept = np.argsort(-scores[i], kind="stable")[:n_kept]
            test = np.array(sampler(test_keys[i], TOKENS_T))
            test[kept] = tokens[kept]
            found = np.asarray(probs(jnp.array([test]))[0])
            stopped[i] = 2 in np.argsort(-found, kind="stable")[:top_k]
    chosen = [i for i in range(P) if stopped[i]] or range(P)
    soft = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return np.mean([soft[i] for i in chosen], axis=0), steps, stopped


@pytest.mark.parametrize("most", [1, 40])
def test_equals_the_recipe_as_loops(most):
    probs, sampler = planted(2), uniform_sampler(V)
    want = numpy_recipe(
        probs, KEY, sampler, ratio=0.3, n_kept=2, top_k=1, P=4, most=most, clip=1e-6
    )
    got = reagent(
        probs, TOKENS_T, target=2, sampler=sampler, key=KEY, keep_ratio=0.4, top_k=1,
        n_probes=4, max_steps=most,
    )  # fmt: skip
    np.testing.assert_allclose(got.scores_T, want[0], rtol=1e-4)
    assert got.steps_P.tolist() == want[1] and got.stopped_P.tolist() == want[2]
    assert got.forward_passes == 1 + 2 * 4 * max(want[1])


def test_a_planted_dependency_is_found():
    """Chance is 1 / 12 for each of 24 positions and prompts."""
    tokens_NT = jax.random.randint(jax.random.key(1), (24, 12), 0, 50)

    def found(key, tokens_T, at):
        probs = planted(at, strength=5.0, tokens_T=tokens_T, vocab_size=50)
        sampler = uniform_sampler(50)
        return reagent(
            probs, tokens_T, target=2, sampler=sampler, key=key, min_steps=10
        ).scores_T.argmax()

    at_N = jnp.arange(24) % 12
    keys_N = jax.random.split(KEY, 24)
    found_N = jax.jit(jax.vmap(found))(keys_N, tokens_NT, at_N)
    assert (found_N == at_N).mean() > 0.8


def test_without_a_probe_that_stops_all_are_counted():
    """The authors' code has 0 / 0 here."""
    never = jnp.zeros(V).at[0].set(1.0)
    got = reagent(
        lambda tokens_BT: jnp.tile(never, (len(tokens_BT), 1)), TOKENS_T, target=2,
        sampler=uniform_sampler(V), key=KEY, top_k=1, n_probes=3, max_steps=4,
    )  # fmt: skip
    assert not got.stopped_P.any() and (got.steps_P == 4).all()
    assert got.scores_T.sum() == pytest.approx(1)


def test_certainty_is_finite():
    """A probability that falls from 1 to 0 has an infinite logit."""

    def probs(tokens_BT):
        return jax.nn.one_hot(jnp.where(tokens_BT[:, 2] == 4, 2, 0), V)

    got = reagent(
        probs, TOKENS_T, target=2, sampler=uniform_sampler(V), key=KEY, min_steps=5
    )
    assert jnp.isfinite(got.scores_T).all() and got.scores_T.argmax() == 2
    assert (got.steps_P >= 5).all()


def test_a_nan_is_not_hidden():
    def probs(tokens_BT):
        same_B1 = (tokens_BT == TOKENS_T).all(1, keepdims=True)
        return jnp.where(same_B1, 1 / V, jnp.nan) * jnp.ones(V)

    got = reagent(
        probs, TOKENS_T, target=2, sampler=uniform_sampler(V), key=KEY, max_steps=9
    )
    assert jnp.isnan(got.scores_T).all()


def test_a_function_of_another_framework_is_called():
    def on_host(tokens_BT):
        assert isinstance(tokens_BT, np.ndarray)
        return np.asarray(planted(2)(tokens_BT))

    options = {"target": 2, "sampler": uniform_sampler(V), "key": KEY, "max_steps": 8}
    got = reagent(host_probs(on_host, vocab_size=V), TOKENS_T, **options)
    want = reagent(planted(2), TOKENS_T, **options)
    np.testing.assert_allclose(got.scores_T, want.scores_T, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens_T": jnp.array([1])}, "tokens_T"),
        ({"target": V}, "target=7"),
        ({"target": -1}, "target=-1"),
        ({"replace_ratio": 0.0}, "replace_ratio=0"),
        ({"replace_ratio": 1.0}, "replace_ratio=1"),
        ({"keep_ratio": 1.0}, "keep_ratio=1"),
        ({"top_k": 0}, "top_k=0"),
        ({"n_probes": 0}, "n_probes=0"),
        ({"min_steps": 5, "max_steps": 4}, "max_steps=4"),
        ({"clip": 0.5}, "clip=0.5"),
        ({"token_probs_fn": lambda x: jnp.full((len(x), V), jnp.nan)}, "token_probs"),
        ({"token_probs_fn": lambda x: jnp.ones((len(x), V))}, "softmax"),
    ],
)
def test_an_argument_out_of_range_is_named(change, message):
    given = {
        "token_probs_fn": planted(2), "tokens_T": TOKENS_T, "target": 2, "key": KEY,
        "sampler": uniform_sampler(V),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        reagent(**given | change)


TEXT = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 2])
PROMPT = np.array([0, 1, 2, 4])


def shares(sampler, n=4000):
    drawn_NT = jax.vmap(sampler, (0, None))(jax.random.split(KEY, n), jnp.array(PROMPT))
    return np.stack([(drawn_NT == w).mean(0) for w in range(5)], axis=1)


def test_samplers_draw_their_distributions_without_the_token_itself():
    own = np.eye(5)[PROMPT]
    uniform_TV = (1 - own) / 4
    count_V = np.bincount(TEXT, minlength=5) + 1
    unigram_TV = (1 - own) * count_V
    unigram_TV /= unigram_TV.sum(1, keepdims=True)
    p_V = count_V / count_V.sum()
    c_V = np.bincount(TEXT, minlength=5)
    pair_VV = np.zeros((5, 5))
    np.add.at(pair_VV, (TEXT[:-1], TEXT[1:]), 1)
    step_VV = (pair_VV + 0.5 * p_V) / (c_V[:, None] + 0.5)
    both_TV = np.stack([
        p_V * step_VV[:, 1],
        step_VV[0] * step_VV[:, 2],
        step_VV[1] * step_VV[:, 4],
        step_VV[2],
    ]) * (1 - own)  # fmt: skip
    both_TV /= both_TV.sum(1, keepdims=True)
    for sampler, want_TV in (
        (uniform_sampler(5), uniform_TV),
        (unigram_sampler(TEXT, vocab_size=5), unigram_TV),
        (ngram_sampler(TEXT, PROMPT, vocab_size=5, smoothing=0.5), both_TV),
    ):
        got_TV = shares(sampler)
        assert (got_TV[own == 1] == 0).all()
        np.testing.assert_allclose(got_TV, want_TV, atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: uniform_sampler(1), "vocab_size=1"),
        (lambda: unigram_sampler(TEXT, vocab_size=3), "train_tokens"),
        (lambda: ngram_sampler(TEXT, PROMPT, vocab_size=4), "ids"),
        (
            lambda: ngram_sampler(TEXT, PROMPT, vocab_size=5, smoothing=0.0),
            "smoothing=0",
        ),
    ],
)
def test_a_sampler_refuses_what_it_cannot_draw(make, message):
    with pytest.raises(ValueError, match=message):
        make()
