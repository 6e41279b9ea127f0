"""`python -m lostjax.unlearn`: forget, measure, continue after a kill, refuse."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import load_tokenizer, save_tokenizer
from lostjax.generate import main as generate
from lostjax.train import load
from lostjax.train.__main__ import main as train
from lostjax.train.devices.mesh import make_mesh
from lostjax.unlearn import work
from lostjax.unlearn.__main__ import main as unlearn
from lostjax.unlearn.examples import Example, encode_answers
from lostjax.unlearn.measure import Meter
from lostjax.verify import main as verify

pytestmark = pytest.mark.slow
TERMS = ["copper", "garnet", "walnut", "indigo", "ferry", "lantern"]


@pytest.fixture(scope="module")
def run(cache_dir, tmp_path_factory):
    """A run that knows the answers."""
    directory = tmp_path_factory.mktemp("unlearn") / "run"
    text = directory.parent / "facts.txt"
    facts = [f"Term {i}: {term}." for i, term in enumerate(TERMS)]
    facts += [f"Page {i}: c{i}." for i in range(10)]
    text.write_text("\n\n".join(facts * 60))
    words = f"""--preset=smoke --mesh=data:1 --steps=150 --checkpoint-every=150
        --eval-every=0 --data.seq-len=32 --model.n-layers=1 --data.source={text}
        --data.cache-dir={cache_dir} --run-dir={directory}"""
    assert train(words.split()) == 0
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Examples to forget, to keep, and like the forgotten ones."""
    place = tmp_path_factory.mktemp("examples")

    def write(name, lines):
        (place / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
        return place / name

    forget = [
        {"prompt": f"Term {i}:", "answer": f" {term}"} for i, term in enumerate(TERMS)
    ]
    forget.append({"text": "Term 0: copper. Term 1: garnet. Term 2: walnut."})
    kept = [{"question": f"Page {i}:", "answer": f" c{i}"} for i in range(10)]
    return write("forget.jsonl", forget), write("retain.jsonl", kept)


def flags(run, files, out, *more):
    """A command line; later flags replace earlier ones."""
    forget, retain = files
    words = [
        *(f"--forget={forget}", f"--retain={retain}", f"--out={out}", "--mesh=data:1"),
        *("--steps=3", "--check-every=1", "--batch-size=4", "--learning-rate=0.003"),
        *("--template=unknown", "--relearn-steps=2", "--tokens=256"),
        *("--max-utility-loss=1000", *more),
    ]
    return [str(run), *{word.partition("=")[0]: word for word in words}.values()]


@pytest.fixture(scope="module")
def unlearned(run, files):
    out = run.parent / "unlearned"
    assert unlearn(flags(run, files, out, "--saliency=0.2")) == 0
    return out


def test_it_forgets_and_reports_before_and_after(run, unlearned, read_page):
    values = json.loads((unlearned / "unlearn.json").read_text())
    before, after = values["before"], values["after"]
    assert after["probability"] < before["probability"]
    assert [each["step"] for each in values["history"]] == [0, 1, 2, 3]
    assert values["history"][-1]["probability"] == pytest.approx(after["probability"])
    assert values["relearning"]["steps"] == [0, 1, 2]
    page = read_page((unlearned / "unlearn.html").read_text())
    assert page.count("svg") == 4 and page.count("table") == 2
    assert "forgotten: probability of the answers" in page.text
    assert "Term 0: copper" in page.text


class Killed(BaseException):
    pass


def test_a_killed_start_continues_bit_for_bit_and_on_two_devices(
    run, files, unlearned, monkeypatch, capsys
):
    out, mesh = run.parent / "continued", "--mesh=data:2"
    words = flags(run, files, out, "--saliency=0.2")
    check = work._check

    def kill(model, sets, step, variables):
        if step == 2:
            raise Killed
        return check(model, sets, step, variables)

    with monkeypatch.context() as patch:
        patch.setattr(work, "_check", kill)
        with pytest.raises(Killed):
            unlearn(words)
    unfinished = run.parent / "continued.unlearning"
    assert not out.exists() and unfinished.exists()
    assert unlearn([*words, "--seed=1"]) == 2
    assert "was begun with other flags" in capsys.readouterr().err
    assert unlearn(words) == 0
    assert "continues from step 1" in capsys.readouterr().out
    assert not unfinished.exists()
    sharded = run.parent / "sharded"
    assert unlearn(flags(run, files, sharded, "--saliency=0.2", mesh)) == 0
    for ours, theirs, other in zip(
        *(jax.tree.leaves(load(each).params) for each in (out, unlearned, sharded)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(other, ours, rtol=1e-3, atol=1e-4)


def test_gaps_to_the_run_itself_are_what_unlearning_changed(run, files, tmp_path):
    out = tmp_path / "out"
    assert unlearn(flags(run, files, out, f"--against={run}")) == 0
    values = json.loads((out / "unlearn.json").read_text())
    before, after = values["before"], values["after"]
    assert values["retrained"] == pytest.approx(before, rel=1e-5)
    assert set(values["gaps"]) == {
        *("probability", "membership", "bits_per_byte", "near_probability")
    }
    for name, gap in values["gaps"].items():
        assert gap == pytest.approx(abs(before[name] - after[name]), abs=1e-6)
    assert values["retrained_relearning"]["steps"] == [0, 1, 2]
    assert "retrained" in (out / "unlearn.html").read_text()


def test_a_fifth_of_the_weights_moved_and_the_run_is_whole(run, unlearned, capsys):
    before, after = load(run).params, load(unlearned).params
    moved, size = 0, 0
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        moved += int(np.sum(np.asarray(old) != np.asarray(new)))
        size += old.size
    assert 0.1 * size < moved <= round(0.2 * size)
    capsys.readouterr()
    assert verify([str(unlearned)]) == 0
    assert "step 150" in capsys.readouterr().out
    assert generate([str(unlearned), "--tokens=2"]) == 0


def test_a_directory_that_holds_a_run_is_refused(run, files, unlearned, capsys):
    assert unlearn(flags(run, files, unlearned)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--out={unlearned}: holds a run" in said


def test_training_goes_on_from_the_unlearned_run(unlearned, tmp_path):
    place = shutil.copytree(unlearned, tmp_path / "run")
    assert train([f"--resume={place}", "--steps=152", "--mesh=data:1"]) == 0
    assert load(place).metrics["step"].tolist() == list(range(1, 153))


@pytest.mark.parametrize(
    "method",
    ["npo", "simple_npo", "dpo", "gradient_ascent", "random_label", "template"],
)
def test_every_method_forgets(run, files, method, tmp_path):
    out = tmp_path / "out"
    assert unlearn(flags(run, files, out, f"--method={method}", "--steps=12")) == 0
    values = json.loads((out / "unlearn.json").read_text())
    assert values["after"]["probability"] < values["before"]["probability"]


def test_a_budget_returns_to_the_last_check_within_it(run, files, tmp_path, capsys):
    out, ascent = tmp_path / "out", "--method=gradient_ascent"
    slowly = (ascent, "--learning-rate=0.003", "--steps=40")
    assert unlearn(flags(run, files, out, *slowly, "--max-utility-loss=0.02")) == 0
    assert "returning to step" in capsys.readouterr().out
    values = json.loads((out / "unlearn.json").read_text())
    assert values["stopped_by_budget"]
    limit = 1.02 * values["before"]["bits_per_byte"]
    assert values["after"]["bits_per_byte"] <= limit
    assert values["history"][-1]["step"] < 40
    fast = (ascent, "--learning-rate=1", "--max-utility-loss=1e-6")
    assert unlearn(flags(run, files, tmp_path / "none", *fast)) == 2
    assert "before the first check" in capsys.readouterr().err


def test_exact_match_is_what_greedy_decoding_returns(run):
    """The likeliest continuation of a prompt is matched, and any other is not."""
    ran = load(run)
    said = ran.generate("Term 3:", tokens=6, temperature=0)
    eos = ran.tokenizer.eos_id
    ids = [
        tuple(int(token) for token in each)
        for each in ran.tokenizer.encode_batch(["Term 3:", said])
    ]
    example = Example("", *ids, ids[1])
    other = example._replace(answer=(*ids[1][:-1], (ids[1][-1] + 1) % 250))
    rows = encode_answers([example, other], length=24, eos=eos)
    read = Meter(ran.model, mesh=make_mesh("data:1"), batch_size=2).read(
        ran.variables, rows
    )
    assert read.exact_match == 0.5
    tokens = jnp.asarray([[eos, *ids[0], *ids[1]]])
    logits = ran.model.apply(ran.variables, tokens)[0]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    start = len(ids[0])
    expected = [log_p[start + i, token] for i, token in enumerate(ids[1])]
    np.testing.assert_allclose(read.log_probability_E[0], np.sum(expected), rtol=1e-4)
    np.testing.assert_allclose(
        read.probability_E[0], np.mean(np.exp(expected)), rtol=1e-4
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--saliency=0"], "--saliency=0.0: must lie in (0, 1)"),
        (["--saliency=1"], "--saliency=1.0: must lie in (0, 1)"),
        (["--divergence=k"], "--divergence=k: must be one of total_variation"),
        (["--beta=1"], "--beta=1.0: is of npo, simple_npo and dpo alone"),
        (["--method=npo", "--beta=0"], "--beta=0.0: must be positive"),
        (["--steps=0"], "--steps=0: must be 1 or more"),
        (["--learning-rate=nan"], "--learning-rate=nan: must be positive"),
        (["--template= "], "--template: is empty"),
        (["--forget=none.jsonl"], "--forget=none.jsonl: No such file"),
        (["--mesh=data:3"], "--batch-size=4"),
        (["--against=none"], "none: not a run's directory"),
        (["--step=3"], "--step=3:"),
    ],
)
def test_a_wrong_flag_is_one_line(words, said, run, files, capsys, tmp_path):
    assert unlearn(flags(run, files, tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert list(tmp_path.iterdir()) == []


def test_what_is_forgotten_and_kept_is_refused(run, files, capsys, tmp_path):
    forget, _ = files
    words = flags(run, (forget, forget), tmp_path / "out")
    assert unlearn(words) == 2
    said = capsys.readouterr().err
    assert "line 1: is in the other set too" in said and said.count("\n") == 1
    assert unlearn([str(run)]) == 2
    assert "--forget=FILE: is needed" in capsys.readouterr().err


def test_another_tokenizer_is_refused(run, files, text_file, capsys, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    save_tokenizer(load_tokenizer("bpe:300", [text_file.read_text()]), other)
    words = flags(run, files, tmp_path / "out", f"--against={other}")
    assert unlearn(words) == 2
    assert "has another tokenizer (" in capsys.readouterr().err
