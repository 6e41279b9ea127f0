"""The program: page, JSON, the scores of the library, refusals."""

import functools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.analysis import occlusion_scores
from lostjax.attribute import __main__ as program
from lostjax.attribute.__main__ import main as attribute
from lostjax.attribute.explain import Explained, Explainer, Scored
from lostjax.attribute.methods import METHODS, Settings
from lostjax.attribute.passage import Passage, logits_of_prompt, probs_of_prompts
from lostjax.data import DataError, load_tokenizer
from lostjax.nn import Dense, Transformer, Ungrouped
from lostjax.train.__main__ import main as train
from lostjax.train.interface.finished import Run

ROW_N = jnp.array([0, 3, 4, 5, 6])


@functools.cache
def make_model(vocab_size, **options):
    """A model of one layer with weights large enough to matter."""
    model = Transformer(
        vocab_size=vocab_size, d_model=16, n_layers=1, n_heads=2, d_hidden=24,
        linear=Ungrouped(Dense), **options,
    )  # fmt: skip
    variables = jax.jit(model.init)(jax.random.key(0), ROW_N[None])
    return model, {"params": jax.tree.map(lambda w: 4 * w, variables["params"])}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was never trained, in the place of the one that is loaded."""
    tokenizer = load_tokenizer("bytes")
    model, variables = make_model(tokenizer.vocab_size)
    opened = Run.__new__(Run)
    opened.__dict__.update(
        directory=tmp_path, step=2, config=None, tokenizer=tokenizer,
        variables=variables, _parts=SimpleNamespace(model=model), _average=False,
    )  # fmt: skip
    monkeypatch.setattr(program, "load", lambda path, **options: opened)
    monkeypatch.setattr(
        program, "read_heldout_tokens", lambda config, *, tokenizer: np.arange(99)
    )
    return opened


def test_page_and_json_hold_the_scores_of_the_library(run, capsys, read_page):
    text = "Unless required by <b>law</b>\n"
    words = ["run", f"--text={text}", "--tokens=2", "--methods=occlusion,attention"]
    assert attribute([*words, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "at most" in said.err and "forward passes in about" in said.err
    assert said.err.count("compiling occlusion") == 1 and "2/2" in said.err

    prompt = run.tokenizer.encode_batch([text])[0]
    row = jnp.asarray([[run.tokenizer.eos_id, *prompt]], jnp.int32)
    assert found["prompt_ids"] == prompt.tolist()
    for token in found["tokens"]:
        probs_V = jax.nn.softmax(run.model.apply(run.variables, row)[0, -1])
        assert token["id"] == int(probs_V.argmax())
        assert token["probability"] == pytest.approx(float(probs_V.max()), rel=1e-4)
        fixed = row[0, 1 + len(prompt) :]

        def probs(tokens_BT, fixed=fixed):
            eos_B1 = jnp.full((len(tokens_BT), 1), run.tokenizer.eos_id)
            rest_BG = jnp.tile(fixed, (len(tokens_BT), 1))
            rows_BN = jnp.concatenate([eos_B1, tokens_BT, rest_BG], axis=1)
            return jax.nn.softmax(run.model.apply(run.variables, rows_BN)[:, -1])

        want_T = occlusion_scores(
            probs, row[0, 1 : 1 + len(prompt)], target=token["id"],
            replacement=run.tokenizer.eos_id,
        )  # fmt: skip
        scores = token["methods"]["occlusion"]["scores"]
        np.testing.assert_allclose(scores, want_T, rtol=1e-3, atol=1e-7)
        row = jnp.append(row, jnp.array([[token["id"]]]), axis=1)

    page = read_page((run.directory / "attribute.html").read_text())
    assert page.count("dd") == 2 * 2
    assert "<b>law</b>" in page.text.replace(" ", "") and page.count("b") == 0
    first = max(map(abs, found["tokens"][0]["methods"]["occlusion"]["scores"]))
    strongest = [
        a["title"] for tag, a in page.tags if a.get("style") == "--strength:60%"
    ]
    assert f"{first:.3g}" in [score.lstrip("-") for score in strongest]


def test_a_stopped_program_continues_with_the_tokens_that_are_left(
    run, capsys, monkeypatch
):
    words = ["run", "--text=Un", "--continuation=les", "--methods=rollout", "--json"]
    partial, asked = run.directory / "attribute.partial.jsonl", []

    def stop_at(index):
        def explain(self, number, *, seed, tell):
            asked.append(number)
            if number == index:
                raise KeyboardInterrupt
            scores_T = np.array([1 / 3, number], np.float32)
            found = Scored(scores_T, 0.1 * seed, math.nan, 7, 1e-3 * number)
            return Explained(65 + number, 0.1, {"rollout": found, "random": found})

        monkeypatch.setattr(Explainer, "explain", explain)

    monkeypatch.setattr(Explainer, "time_pass", lambda self: (1.0, 2.0))
    stop_at(None)
    assert attribute(words) == 0
    whole = json.loads(capsys.readouterr().out)
    stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        attribute(words)
    said = capsys.readouterr()
    assert f"stopped; {partial} keeps 2 results" in said.err and not said.out
    stop_at(None)
    assert attribute(words) == 0
    said = capsys.readouterr()
    assert "2 results of an earlier call stay" in said.err
    assert "tokens to explain: 1;" in said.err and asked[3:] == [0, 1, 2, 2]
    assert json.loads(said.out) == whole and not partial.exists()

    stop_at(1)
    with pytest.raises(KeyboardInterrupt):
        attribute(words)
    stop_at(None)
    assert attribute([*words, "--seed=1"]) == 0
    assert "an earlier call differs in --seed" in capsys.readouterr().err
    assert asked[-3:] == [0, 1, 2] and not partial.exists()


@pytest.mark.slow
def test_every_method_reads_a_passage_and_finds_what_counts():
    """Of a causal model with attention to itself alone, the last token counts."""

    def attend(q, k, v, seen):
        return v

    model, variables = make_model(9, attend=attend)
    most_likely = model.apply(variables, ROW_N[None, :4])[0, -1].argmax()
    row_N = ROW_N.at[4].set(most_likely)
    by_logit = [name for name in METHODS if name not in ("attention", "rollout")]
    explainer = Explainer(
        model, variables, row_N=row_N, n_prompt=3, methods=by_logit,
        settings=Settings(
            lambda key, tokens_T: (tokens_T + 1) % 9, 8, 40, replacement=0
        ),
    )  # fmt: skip
    told = []
    one = explainer.explain(0, seed=0, tell=told.append)
    assert told == [*by_logit, "random"] and one.token == most_likely
    for name in by_logit:
        scored = one.by_method[name]
        assert np.abs(scored.scores_T).argmax() == 2, name
        passes = METHODS[name].most_passes(explainer._settings, 3)
        assert 0 < scored.passes <= passes
        if name != "reagent":
            assert scored.passes == passes
    assert explainer.most_passes >= sum(s.passes for s in one.by_method.values())


def test_what_comes_after_the_place_does_not_count():
    model, variables = make_model(9)
    rows = jnp.array([[0, 3, 4, 5, 6, 7], [0, 3, 4, 5, 8, 8]])
    found = []
    for row_N in rows:
        passage = Passage(variables, row_N, 3, jnp.int32(3), jnp.int32(1))
        probs_V = probs_of_prompts(model, passage)(row_N[None, 1:4])[0]
        logits_V = logits_of_prompt(model, passage)(passage.prompt_TD)
        np.testing.assert_allclose(probs_V, jax.nn.softmax(logits_V), rtol=1e-4)
        found.append(probs_V)
    np.testing.assert_allclose(*found, rtol=1e-6)
    shorter_V = model.apply(variables, rows[:1, :4])[0, -1]
    np.testing.assert_allclose(found[0], jax.nn.softmax(shorter_V), rtol=1e-4)


@pytest.mark.parametrize(
    "word, message",
    [
        ("--tokens=0", "--tokens=0: must be 1 to"),
        ("--n-probes=0", "--n-probes=0"),
        ("--max-steps=0", "--max-steps=0"),
        ("--seed=-1", "--seed=-1"),
        ("--methods=reagant", "did you mean reagent?"),
        ("--methods=", "is none of"),
        ("--text=", "needs 2 tokens or more"),
        ("--text=x\udcff", "--text: is not valid Unicode"),
        ("--continuation=", "--continuation=: has no value"),
        ("--out=/nowhere/page.html", "there is no directory /nowhere"),
        ("--out=/tmp", "is a directory; name a file"),
    ],
)
def test_a_value_that_cannot_be_is_named_before_any_work(run, word, message, capsys):
    assert attribute(["run", word]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_without_the_held_out_text_another_sampler_is_named(run, capsys, monkeypatch):
    def missing(config, *, tokenizer):
        raise DataError("gone.txt: there is no such file")

    monkeypatch.setattr(program, "read_heldout_tokens", missing)
    assert attribute(["run"]) == 2
    assert (
        "gone.txt: there is no such file; --sampler=uniform" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_run_of_a_mesh_is_read_on_one_device(text_file, cache_dir, tmp_path, capsys):
    words = f"""--preset=smoke --mesh=data:2 --steps=2 --data.seq-len=32
        --model.n-layers=1 --data.source={text_file} --data.cache-dir={cache_dir}
        --run-dir={tmp_path}"""
    assert train(words.split()) == 0
    capsys.readouterr()
    assert attribute([str(tmp_path), "--text=the", "--tokens=1", "--json"]) == 0
    (token,) = json.loads(capsys.readouterr().out)["tokens"]
    assert set(token["methods"]) == {*METHODS, "random"}
    scores = [made["scores"] for made in token["methods"].values()]
    assert np.isfinite(scores).all() and np.shape(scores) == (9, 3)
    assert (tmp_path / "attribute.html").is_file()
    assert attribute([str(tmp_path), "--step=7"]) == 2
    assert "has checkpoints of steps 2" in capsys.readouterr().err
