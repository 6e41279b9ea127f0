"""`python -m lostjax.prune`: the curve, its page, and a run that others read."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from lostjax import optim
from lostjax.analysis import apply_mask, magnitude_mask
from lostjax.generate import main as generate
from lostjax.prune import curve
from lostjax.prune.__main__ import main as prune
from lostjax.steps.state import TrainState
from lostjax.train import load
from lostjax.train.__main__ import main as train
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.config.schema import OptimConfig
from lostjax.train.interface.derived import change_params
from lostjax.train.interface.texts import plan_text
from lostjax.verify import main as verify


@pytest.fixture(scope="module")
def run(text_file, cache_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prune") / "run"
    words = f"""--preset=smoke --mesh=data:1 --steps=4 --checkpoint-every=2
        --eval-every=2 --data.seq-len=32 --model.n-layers=1 --data.source={text_file}
        --data.cache-dir={cache_dir} --run-dir={directory}"""
    assert train(words.split()) == 0
    return directory


@pytest.fixture(scope="module")
def pruned(run):
    """A run without half of its weights, and what the program printed and wrote."""
    out = run.parent / "pruned"
    words = f"{run} --sparsities=0.3,0.9 --nm=2:4 --tokens=10000000 --out={out}"
    assert prune(words.split()) == 0
    return out


def test_the_whole_model_scores_as_its_evaluation_and_masks_score_worse(run, pruned):
    values = json.loads((run / "prune.json").read_text())
    curve = {(x["mask"], x["sparsity"]): x["bits_per_byte"] for x in values["curve"]}
    whole = load(run).evaluate().bits_per_byte
    assert curve["whole", 0.0] == pytest.approx(whole, rel=1e-5)
    assert len(curve) == 6 and all(map(math.isfinite, curve.values()))
    # The pattern's own score is that of the pruned run.
    [pattern] = [bits for (mask, _), bits in curve.items() if mask == "2:4"]
    assert load(pruned).evaluate().bits_per_byte == pytest.approx(pattern, rel=1e-5)
    assert pattern != pytest.approx(whole, rel=1e-5)


def test_the_page_shows_the_curve(run, pruned, read_page):
    page = read_page((run / "prune.html").read_text())
    assert page.count("svg") == 4 and page.count("table") == 2
    assert "essential sparsity" in page.text and "2:4" in page.text


def test_the_pruned_run_has_the_zeros_and_is_whole(run, pruned, capsys):
    before, after = load(run).params["layers"], load(pruned).params["layers"]
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(before)}
    assert names >= {"a", "b", "values"}  # LOST's factors and channels
    for (path, old), new in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if old.ndim < 3 or old.shape[1] % 4:
            np.testing.assert_array_equal(old, new, err_msg=str(path))
            continue
        groups = np.reshape(new, (old.shape[0], -1, 4, old.shape[-1]))
        assert np.all((groups != 0).sum(axis=2) <= 2)
        kept = np.asarray(new) != 0
        np.testing.assert_array_equal(np.asarray(new)[kept], np.asarray(old)[kept])
    capsys.readouterr()
    assert verify([str(pruned)]) == 0
    said = capsys.readouterr().out
    assert "step 4" in said and "metrics.jsonl      whole  4 lines" in said
    # The evaluation at the checkpoint was that of the model before.
    assert load(pruned).evaluations["step"].tolist() == [2]
    assert load(pruned).params["layers"] is not None
    assert generate([str(pruned), "--tokens=2"]) == 0


@pytest.mark.slow
def test_training_goes_on_from_the_pruned_run(pruned, run, tmp_path):
    pruned = shutil.copytree(pruned, tmp_path / "pruned")  # other tests read it
    more = ["--resume", str(pruned), "--steps=6", "--mesh=data:1"]
    assert train(more) == 0
    assert load(pruned).metrics["step"].tolist() == list(range(1, 7))
    assert (pruned / "report.html").exists()
    fresh = tmp_path / "fresh"
    words = f"--init-from={pruned} --init-step=4 --steps=2 --run-dir={fresh}"
    words += " --optim.keep-zeros --optim.weight-decay=0.1 --mesh=data:2"
    assert train(words.split()) == 0
    # Extended: the mask comes from the checkpoint, not from the parameters.
    assert train([f"--resume={fresh}", "--steps=3", "--mesh=data:1"]) == 0
    start, end = load(pruned, step=4).params, load(fresh).params
    for (path, old), new in zip(
        jax.tree.leaves_with_path(start), jax.tree.leaves(end), strict=True
    ):
        is_matrix = path[0].key == "layers" and old.ndim > 2
        zeros = np.asarray(old) == 0
        assert np.any(np.asarray(new) != np.asarray(old))
        if is_matrix:
            assert np.all(np.asarray(new)[zeros] == 0)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--nm=4:2"], "--nm=4:2: N of each M weights are kept"),
        (["--nm=2/4"], "--nm=2/4: must be N:M, such as 2:4"),
        (["--sparsities=0.1"], "--sparsities=0.1: needs two or more"),
        (["--sparsities=0.1,0.1"], "needs two or more, each once"),
        (["--sparsities=0.1,1"], "'1' must be a number in (0, 1)"),
        (["--tolerance=0"], "--tolerance=0.0: must lie in (0, 1)"),
        (["--tokens=0"], "--tokens=0: must be at least 1"),
        (["--seed=-1"], "--seed=-1: must lie in"),
        (["--sparsity=0.5"], "is that of a pruned run, which needs --out"),
        (["--sparsity=1", "--out=x"], "--sparsity=1.0: must lie in (0, 1)"),
        (["--sparsity=.5", "--out=x", "--nm=2:4"], "use one of them"),
        (["--nm=3:1000"], "--nm=3:1000: groups of 1000 divide the inputs of no matrix"),
        (["--step=3"], "has checkpoints of steps 2, 4"),
        (["--out={run}"], "holds a run; name a new directory"),
        (["--out={run}/checkpoints"], "holds files but no run"),
        (["--page={run}/config.json"], "is a file, not a directory"),
    ],
)
def test_mistakes_are_refused_before_anything_is_computed(
    words, said, run, capsys, monkeypatch
):
    monkeypatch.setattr(curve, "choose_passages", lambda *_, **__: pytest.fail())
    words = [word.replace("{run}", str(run)) for word in words]
    assert prune([str(run), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run_without_a_plateau_is_not_pruned_unasked(run, capsys, tmp_path):
    words = [str(run), "--sparsities=0.8,0.9", "--tokens=1", "--tolerance=1e-9"]
    words.append(f"--page={tmp_path}")
    assert prune([*words, f"--out={tmp_path / 'no'}"]) == 2
    assert "no tested share is on the plateau" in capsys.readouterr().err
    assert not (tmp_path / "no").exists() and (tmp_path / "prune.html").exists()
    assert prune([*words, f"--out={tmp_path / 'yes'}", "--sparsity=0.5"]) == 0
    removed = [np.mean(x == 0) for x in jax.tree.leaves(load(tmp_path / "yes").params)]
    assert max(removed) > 0.3


def test_a_model_that_diverged_is_refused(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(curve, "bits_per_byte", lambda *_: math.nan)
    assert prune([str(run), "--tokens=1", f"--page={tmp_path}"]) == 2
    assert "its loss is not a number" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_state_is_evaluated_with_is_masked_too():
    """Averages and past parameters would bring the removed weights back."""
    params = {"layers": {"w": jnp.arange(1.0, 9.0).reshape(1, 2, 4)}}
    mask = magnitude_mask(params, 0.5)
    tx = optax.chain(schedule_free_adamw(0.1), optim.track_past_params(0.5))
    opt_state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    _, opt_state = tx.update(grads, opt_state, params)
    state = TrainState(0, 0, params, {}, opt_state)
    masked = change_params(state, lambda params: apply_mask(params, mask))
    free, past = masked.opt_state[0], optim.get_past_params(masked.opt_state)
    for tree in (masked.params, schedule_free_eval_params(free, masked.params), past):
        kept = np.asarray(tree["layers"]["w"]) != 0
        np.testing.assert_array_equal(kept, mask["layers"]["w"])


def test_zeros_of_matrices_stay_with_every_optimiser():
    """What a run that starts from pruned parameters trains."""
    params = {
        "embed": {"embedding": jnp.zeros((4, 4))},
        "layers": {
            "w": jnp.arange(32.0).reshape(2, 4, 4) % 3,
            "norm": {"scale": jnp.zeros((2, 4))},
        },
    }
    grads = jax.tree.map(jnp.ones_like, params)
    for name in ("adamw", "frugal", "muon", "sign_sgd", "galore"):
        config = OptimConfig(name=name, keep_zeros=True, weight_decay=0.1)
        tx, _ = build_optimizer(config, steps=10)
        now, state = params, tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, now)
            now = optax.apply_updates(now, updates)
        kept = params["layers"]["w"] != 0
        np.testing.assert_array_equal(now["layers"]["w"] != 0, kept, err_msg=name)
        assert np.all((now["layers"]["w"] != params["layers"]["w"]) == kept)
        assert np.all(now["embed"]["embedding"] != 0)
        assert np.all(now["layers"]["norm"]["scale"] != 0)


def test_passages_are_spread_over_the_text(run):
    found = load(run)
    plan = plan_text(None, found.config, tokenizer=found.tokenizer)
    assert curve.choose_passages(plan, tokens=1).batches == [0]
    every = curve.choose_passages(plan, tokens=10**9)
    assert every.batches == list(range(plan.n_batches))
    two = curve.choose_passages(plan, tokens=plan.batch_size * 32 + 1)
    assert two.batches == sorted({0, plan.n_batches - 1})
