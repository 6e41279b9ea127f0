"""The program: planted concepts, its page and numbers, refusals."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.concepts import __main__ as program
from lostjax.concepts.__main__ import main as concepts
from lostjax.concepts.page import choose_positions, describe_concepts
from lostjax.concepts.stream import (
    Judge,
    Stream,
    find_concepts,
    join_signs,
    split_signs,
)
from lostjax.data import load_tokenizer
from lostjax.nn import Dense, Transformer, Ungrouped
from lostjax.train.config.presets import get_preset
from lostjax.train.interface.finished import Run


def make_model(vocab_size, d_model=16):
    return Transformer(
        vocab_size=vocab_size, d_model=d_model, n_layers=1, n_heads=2, d_hidden=24,
        linear=Ungrouped(Dense),
    )  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory, text_file, cache_dir):
    """A run that was never trained, on a real text."""
    tokenizer = load_tokenizer("bytes")
    model = make_model(tokenizer.vocab_size)
    tokens_BT = jnp.zeros((1, 4), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens_BT)
    config = get_preset("smoke")
    data = dataclasses.replace(
        config.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=32
    )
    run = Run.__new__(Run)
    run.__dict__.update(
        directory=tmp_path_factory.mktemp("concepts"), step=2, tokenizer=tokenizer,
        variables=variables, _parts=SimpleNamespace(model=model),
        config=dataclasses.replace(config, data=data, batch_size=4),
    )  # fmt: skip
    return run


@pytest.fixture
def run(opened, monkeypatch):
    monkeypatch.setattr(program, "load", lambda path, **options: opened)
    return opened


WORDS = "run --concepts=3 --tokens=400 --positions=9 --n-designs=4 --passages=2"


def test_page_and_numbers_hold_what_was_found(run, capsys, read_page):
    assert concepts(WORDS.split()) == 0
    said = capsys.readouterr().out
    assert said.index("evaluations of the head in about") < said.index("9/9 positions")
    found = json.loads((run.directory / "concepts.json").read_text())
    assert found["judged_positions"] == 9 and 0 < found["unexplained"] < 1
    assert found["loss_of_none"] == pytest.approx(
        np.log(run.tokenizer.vocab_size), rel=1e-5
    )
    importance = [each["importance"] for each in found["concepts"]]
    assert len(importance) == 3 and importance == sorted(importance, reverse=True)
    page = read_page((run.directory / "concepts.html").read_text())
    for each in found["concepts"]:
        assert len(each["passages"]) == 2
        assert all(passage["amount"] > 0 for passage in each["passages"])
    assert page.text.count(", then “") == 6
    bare = page.text.replace(" ", "")
    text = found["concepts"][0]["passages"][0]["text"]
    assert text.replace(" ", "").replace("\n", "⏎") in bare


@pytest.mark.parametrize(
    "words, message",
    [
        ("--concepts=0", "--concepts=0: must be 1 to 256"),
        ("--concepts=33", "--concepts=33: must be at most 32"),
        ("--n-designs=48", "--n-designs=48: must be a power of 2"),
        ("--positions=0", "--positions=0: must be 1 to"),
        ("--seed=-1", "--seed"),
        ("--page={file}", "is a file, not a directory"),
    ],
)
def test_bad_input_is_one_line(words, message, run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert concepts(["run", words.format(file=tmp_path / "file")]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "concepts.html").exists()


def test_a_run_that_diverged_is_refused(run, capsys, monkeypatch):
    broken = jax.tree.map(lambda x: x * jnp.nan, run.variables)
    monkeypatch.setitem(run.__dict__, "variables", broken)
    assert concepts(["run", "--tokens=100"]) == 2
    assert "its states are not numbers" in capsys.readouterr().err


def planted(seed=0):
    """States along two directions; token 5 follows the first, and 6 the second.

    Half of the first direction lies in negative numbers.
    """
    rng = np.random.default_rng(seed)
    amount_N2 = rng.random((200, 2)) * (rng.random((200, 2)) > 0.5)
    directions_2D = np.zeros((2, 8))
    directions_2D[0, :2], directions_2D[1, 2:4] = (-0.6, 0.8), (0.8, 0.6)
    stream = Stream(
        states_ND=np.asarray(amount_N2 @ directions_2D, np.float32),
        targets_N=np.where(amount_N2[:, 0] > amount_N2[:, 1], 5, 6),
        row_N=np.arange(200) // 10,
        place_N=np.arange(200) % 10,
        start_N=np.where(np.arange(200) % 10 < 6, 0, 6),
        tokens_BT=np.tile(np.arange(11), (20, 1)),
    )
    return stream, directions_2D, amount_N2


def planted_judge(directions_2D):
    """A head whose token 5 is raised by the first direction, tenfold."""
    model = make_model(9, d_model=8)
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens_BT)
    (name,) = variables["params"]["head"]
    kernel_DV = np.zeros((8, 9), np.float32)
    kernel_DV[:, 5] = 10 * directions_2D[0]
    params = variables["params"] | {"head": {name: jnp.asarray(kernel_DV)}}
    return Judge(model, {"params": params}, n_designs=64)


def test_planted_directions_are_found_and_judged():
    stream, directions_2D, amount_N2 = planted()
    found = find_concepts(stream, rank=2, most=100, seed=0)
    assert found.unexplained < 1e-3
    cosine_RK = np.asarray(join_signs(found.w_RM)) @ directions_2D.T
    first = int(np.argmax(cosine_RK[:, 0]))
    assert cosine_RK[first, 0] > 0.99 and cosine_RK[1 - first, 1] > 0.99
    judge = planted_judge(directions_2D)
    rows_K = np.flatnonzero(amount_N2[:, 0] > 0.2)[:40]
    done = []
    judged = judge.judge(stream, found, rows_K=rows_K, tell=done.append)
    assert done[-1] == 40
    # The second direction has no logit: it counts for nothing.
    assert judged.importance_R[first] > 0.9 and judged.importance_R[1 - first] < 0.05
    logits_KV = stream.states_ND[rows_K] @ directions_2D[0] * 10
    loss_K = np.log(8 + np.exp(logits_KV)) - logits_KV * (stream.targets_N[rows_K] == 5)
    assert judged.whole == pytest.approx(loss_K.mean(), rel=1e-4)
    assert judged.none == pytest.approx(np.log(9), rel=1e-5)
    assert judged.without_R[first] == pytest.approx(judged.none - judged.whole, 0.05)
    shown = describe_concepts(
        stream, found, judged, logits_RV=judge.direction_logits(found.w_RM),
        decode=lambda token: f"<{token}>", n_passages=3,
    )  # fmt: skip
    assert shown[0].raises == ["<5>", "<6>"]  # of tokens that follow a position
    assert shown[0].importance == judged.importance_R[first]
    best = shown[0].passages[0]
    at = int(found.u_NR[:, first].argmax())
    strongest = int(np.nanargmax(best.amounts_T))
    assert best.texts[strongest] == f"<{at % 10}>"
    # A passage begins with its document; the last token of a row has no next one.
    assert best.texts[0] == ("<0>" if at % 10 < 6 else "<6>")
    assert best.texts[-1] == f"<{min(10, at % 10 + 6)}>"
    assert np.isnan(best.amounts_T[-1]) == (best.texts[-1] == "<10>")


def test_passages_are_of_different_rows_and_have_some_of_the_concept():
    stream, *_ = planted()
    amount_N = np.zeros(200)
    amount_N[[3, 5, 17, 42]] = 1.0, 4.0, 2.0, 3.0
    assert choose_positions(stream, amount_N, count=9) == [5, 42, 17]
    assert choose_positions(stream, amount_N, count=1) == [5]


def test_signs_are_parted_and_joined():
    states_ND = np.array([[1.0, -2.0], [0.0, 3.0]])
    parts_NM = split_signs(states_ND)
    assert parts_NM.min() == 0 and parts_NM.shape == (2, 4)
    np.testing.assert_array_equal(join_signs(jnp.asarray(parts_NM)), states_ND)
