"""Training from Python: one run that all tests look at, and runs that are stopped."""

import dataclasses
import html
import inspect
import io
import json
import math
import os
import re
import shutil
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import lostjax
from lostjax.errors import ConfigError
from lostjax.evaluate import main as evaluate
from lostjax.generate import main as generate
from lostjax.train import session
from lostjax.train.config.stored import load_config
from lostjax.train.interface import training
from lostjax.train.report import gather
from lostjax.train.report.contents import Sample

STEPS = 6


@pytest.fixture(scope="module")
def configure(text_file, cache_dir):
    def make(directory, **values):
        return lostjax.train.preset(
            "smoke",
            steps=STEPS,
            run_dir=directory,
            **{
                "mesh": "data:1",
                "model.n_layers": 1,
                "data.source": text_file,
                "data.cache_dir": cache_dir,
                "data.seq_len": 32,
                **values,
            },
        )

    return make


@pytest.fixture(scope="module", autouse=True)
def plain():
    """Leave out what a report compiles; see `plain_report`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "draw_sample", lambda job, state: Sample("", ""))
        patch.setattr(gather, "build_ledger", lambda job, compiled: ())
        yield


@pytest.fixture(scope="module")
def seen():
    """What the callback of the shared run was called with."""
    return []


@pytest.fixture(scope="module")
def run(configure, seen, tmp_path_factory):
    def watch(step, metrics):
        seen.append((step, metrics["loss"]))

    directory = tmp_path_factory.mktemp("python") / "run"
    return lostjax.train.run(configure(directory, eval_every=3), callbacks=[watch])


def test_a_run_is_returned_with_its_numbers(run, seen):
    assert run.is_finished and run.step == STEPS
    assert list(run.metrics["step"]) == list(range(1, STEPS + 1))
    assert seen == list(zip(run.metrics["step"], run.metrics["loss"], strict=True))
    assert run.metrics["loss"][-1] < run.metrics["loss"][0]
    assert list(run.evaluations["step"]) == [3, STEPS]
    assert load_config(run.directory / "config.json").steps == STEPS
    assert f"step {STEPS} of {STEPS}, held-out bits per byte" in repr(run)


def test_columns_hold_nan_for_what_a_step_lacks(tmp_path, run):
    columns = lostjax.train.interface.finished._as_columns(
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "mean_log_z": 3.0}]
    )
    assert columns["step"].dtype.kind == "i"
    np.testing.assert_array_equal(columns["mean_log_z"], [np.nan, 3.0])


def test_the_model_is_the_one_that_was_evaluated(run):
    own = run.evaluate()
    np.testing.assert_allclose(own.loss, run.evaluations["eval_loss"][-1], rtol=1e-5)
    assert own.tokens == run.evaluations["eval_tokens"][-1]
    again = lostjax.train.load(run.directory, dtype="bfloat16")
    assert again.params["head"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        again.params["head"]["kernel"], run.params["head"]["kernel"].astype("bfloat16")
    )
    ids = [run.tokenizer.encode_batch(["Licence"])[0]]
    logits_BTV = run.model.apply(run.variables, jnp.asarray(ids, jnp.int32))
    assert logits_BTV.shape == (1, len(ids[0]), run.tokenizer.vocab_size)


def test_the_program_prints_what_the_method_returns(run, capsys):
    own = run.evaluate(top_k=7)
    assert evaluate([str(run.directory), "--top-k=7", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "run": str(run.directory),
        "step": STEPS,
        "text": "its held-out text",
        **own._asdict(),
    }
    assert own.top_k_accuracy >= own.accuracy and 0 <= own.calibration_error <= 1
    source = run.config.data.source
    assert evaluate([str(run.directory), f"--data.source={source}", "--step=6"]) == 0
    table = capsys.readouterr().out
    assert table.startswith(f"{run.directory}, step 6, on {source}\nbits per byte  ")
    assert "\ntop-5 accuracy " in table and "\nexpected calibration error " in table
    for words, message in {
        "--top-k=0": "--top-k=0: must lie in [1, 257], the size of the vocabulary",
        "--data.source=nowhere.txt": "nowhere.txt: no such file or source",
        "--step=5": f"--step=5: {run.directory} has checkpoints of steps 6",
    }.items():
        assert evaluate([str(run.directory), words]) == 2
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_another_text_can_be_evaluated(run, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text("Grant of patent license. " * 20)
    found = run.evaluate(text)
    assert found.loss > 0 and found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_byte * math.log(2) * text.stat().st_size == pytest.approx(
        found.loss * found.tokens
    )
    with pytest.raises(lostjax.data.DataError, match="nowhere"):
        run.evaluate("nowhere.txt")


def test_text_is_that_of_the_command_line(run, capsys):
    words = ["--prompt=Licence", "--tokens=8", "--seed=3", "--top-k=5"]
    assert generate([str(run.directory), *words]) == 0
    said = capsys.readouterr().out
    drawn = run.generate("Licence", tokens=8, seed=3, top_k=5)
    assert said == f"Licence{drawn}\n"
    assert run.generate("Licence", tokens=8, seed=4, top_k=5) != drawn
    with pytest.raises(ConfigError, match="--temperature=-1"):
        run.generate("Licence", temperature=-1)
    with pytest.raises(ConfigError, match="--tokens=0"):
        run.generate("Licence", tokens=0)


def test_prompts_are_asked_for_at_a_terminal(run, capsys, monkeypatch):
    options = {"tokens": 8, "top_k": 5}
    texts = [
        run.generate(prompt, seed=seed, **options)
        for seed, prompt in ((3, "Licence"), (4, "é"))
    ]
    pieces = list(run.stream("Licence", seed=3, **options))
    assert "".join(pieces) == texts[0] and len(pieces) > 1
    words = [str(run.directory), "--tokens=8", "--top-k=5", "--seed=3"]
    terminal = io.StringIO("Licence\né\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    assert generate(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run.directory}, step {STEPS}: compiling\nCtrl-C stops")
    assert f"> Licence{texts[0]}\n> é{texts[1]}\n> \n" in said
    assert generate([*words[:1], "--top-k=999"]) == 2
    assert "--top-k=999: must be 1 to" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("Licence\n"))  # a pipe
    assert generate(words) == 0
    assert capsys.readouterr().out.startswith("Fellow citizens,")


def test_a_prompt_comes_from_a_pipe_if_that_is_asked_for(run, capsys, monkeypatch):
    words = [str(run.directory), "--tokens=8", "--top-k=5", "--seed=3"]
    text = run.generate(
        "two\nl\N{LATIN SMALL LETTER E WITH ACUTE}nes", tokens=8, top_k=5, seed=3
    )

    def pipe(data):
        end, start = os.pipe()
        os.write(start, data)
        os.close(start)
        monkeypatch.setattr("sys.stdin", os.fdopen(end))

    pipe("two\nl\N{LATIN SMALL LETTER E WITH ACUTE}nes\n".encode())
    assert generate([*words, "--prompt=-"]) == 0
    said = capsys.readouterr()
    assert said.out == f"two\nl\N{LATIN SMALL LETTER E WITH ACUTE}nes{text}\n"
    assert said.err == ""
    pipe(b"unread")
    assert generate(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Fellow citizens,")
    assert said.err == "standard input is not read; --prompt=- reads it\n"
    pipe(b"\xe9")
    assert generate([*words, "--prompt=-"]) == 2
    assert "--prompt=-: standard input is not UTF-8" in capsys.readouterr().err


def test_a_plot_shows_itself(run):
    figure = run.plot()
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_array_equal(curves["training"].get_ydata(), run.metrics["loss"])
    np.testing.assert_array_equal(curves["held-out"].get_xdata(), [3, STEPS])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_shows_the_report_in_a_frame(run):
    shown = run._repr_html_()
    page = (run.directory / "report.html").read_text()
    source = re.fullmatch(
        r'<iframe [^>]*sandbox=""[^>]* srcdoc="([^"]*)"></iframe>', shown
    )
    assert html.unescape(source[1]) == page
    rows = dict(re.findall(r"<tr><th scope=.row.>([^<]*)</th><td>([^<]*)</td>", page))
    assert re.fullmatch(r"1 document, [\d.]+ k?B", rows["trained on"])
    assert rows["held out"].startswith("1 document, ")
    assert "<style" not in shown, "the report's style sheet would restyle the notebook"


def test_a_finished_run_is_returned_as_it_is(run, capsys):
    again = lostjax.train.run(run.config)
    assert again.directory == run.directory and again.is_finished
    assert "finished, all 6 steps are done" in capsys.readouterr().out


def test_a_run_without_an_average_says_so(run):
    with pytest.raises(ConfigError, match="keeps no moving average"):
        lostjax.train.load(run.directory, average=True)


def test_another_mesh_works_or_says_why_not(run, configure, tmp_path):
    there = dataclasses.replace(run.config, mesh="data:4")
    assert lostjax.train.run(there).is_finished
    config = configure(tmp_path / "wide", mesh="data:99")
    with pytest.raises(ConfigError, match="needs 99 devices, .* restart it") as raised:
        lostjax.train.run(config)
    assert "\n" not in str(raised.value) and not (tmp_path / "wide").exists()


def test_what_is_no_configuration_is_refused():
    with pytest.raises(ConfigError, match="lostjax.train.preset"):
        inspect.unwrap(lostjax.train.run)("tiny")  # without the tests' type check


@pytest.mark.usefixtures("compile_once")
def test_an_interrupted_run_is_saved_and_resumes_to_the_same_end(
    run, configure, tmp_path
):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step, metrics):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    directory = tmp_path / "interrupted"
    with pytest.raises(lostjax.train.Stopped, match=str(directory)) as raised:
        lostjax.train.run(configure(directory, eval_every=3), callbacks=[interrupt])
    assert isinstance(raised.value, KeyboardInterrupt)
    stopped = raised.value.run
    assert 2 <= stopped.step < STEPS and not stopped.is_finished
    assert stopped._repr_html_() is None and "not finished" in repr(stopped)
    assert signal.getsignal(signal.SIGINT) is before
    whole = lostjax.train.run(stopped.config)
    np.testing.assert_array_equal(whole.metrics["loss"], run.metrics["loss"])


@pytest.mark.usefixtures("compile_once")
def test_an_error_of_a_callback_stops_the_run_and_keeps_it(configure, tmp_path):
    calls = []

    def fail(step, metrics):
        calls.append(step)
        raise ZeroDivisionError("mine")

    directory = tmp_path / "failed"
    with pytest.raises(ZeroDivisionError, match="mine") as raised:
        lostjax.train.run(configure(directory), callbacks=[fail])
    assert calls == [1] and str(directory) in raised.value.__notes__[0]
    assert 1 <= lostjax.train.load(directory).step < STEPS


@pytest.mark.usefixtures("compile_once")
def test_a_run_in_another_thread_leaves_signals_alone(run, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(run.directory, copied)
    (copied / "report.html").unlink()  # so that the run is entered
    config = lostjax.train.load(copied).config
    found = []
    thread = threading.Thread(target=lambda: found.append(lostjax.train.run(config)))
    thread.start()
    thread.join()
    assert found[0].is_finished


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run's directory"):
        lostjax.train.load(tmp_path)


def test_a_run_that_has_saved_nothing_says_so(run, tmp_path):
    shutil.copy(run.directory / "config.json", tmp_path)
    empty = lostjax.train.load(tmp_path)
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        empty.step  # noqa: B018
    assert empty.metrics == {} and "step 0 of 6" in repr(empty)
    assert empty.plot().axes[0].lines[:] == []


def test_a_run_that_the_guard_stops_is_an_error(run, monkeypatch):
    outcome = session.Outcome(run.directory, None, 3)
    monkeypatch.setattr(training, "train", lambda *args, **options: outcome)
    with pytest.raises(RuntimeError, match="exit code 3.*log.txt says why"):
        lostjax.train.run(run.config)
