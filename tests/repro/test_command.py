"""The command line: all papers in one list, and mistakes in one line."""

import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import list_papers, load_paper


def test_without_a_name_all_papers_are_listed(tmp_path, capsys):
    assert main([f"--results={tmp_path / 'none'}"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split()[:3] == ["paper", "statements", "holds"]
    names = [line.split()[0] for line in lines[1:] if "not measured yet" in line]
    assert names == list_papers() and "lost" in names
    assert "Nothing has been measured in" in said
    assert not (tmp_path / "none").exists()


def test_the_help_is_short(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "python -m lostjax.repro NAME" in said
    assert said.count("\n") < 40 and "--seeds" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["lots"], "lots: no such paper; did you mean lost?"),
        (["zzz"], "zzz: no such paper; `python -m lostjax.repro` lists them"),
        (["lost", "saf"], "saf"),
        (["lost", "--seeds=1"], "--seeds=1: a spread needs at least 2"),
        (["lost", "--workers=0"], "--workers=0"),
        (["lost", "--sale=smoke"], "did you mean --scale?"),
        (["lost", "--scale=smal"], "--scale=smal: must be one of smoke, small; did"),
        (["--scale", "smoke", "lots"], "lots: no such paper"),
        (["lost", "--results={file}"], "Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_trains_nothing(words, message, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    words = [word.format(file=tmp_path / "file") for word in words]
    if not any(word.startswith("--results") for word in words):
        words.append(f"--results={tmp_path / 'new'}")
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1, said.err
    assert not said.out and not (tmp_path / "new").exists()


TRAIN_THEIR_OWN_LANGUAGE_MODELS = {
    "essential_sparsity",
    "loss_curves",
    "lottery_masks",
    "sparsification",
    "spherical",
}


@pytest.mark.parametrize("name", list_papers())
def test_every_paper_is_whole(name):
    experiment = load_paper(name)
    assert {"smoke", "small"} <= set(experiment.scales)
    trains_one = experiment.train is None or name in TRAIN_THEIR_OWN_LANGUAGE_MODELS
    least = 3 if trains_one else 5
    assert experiment.seeds >= least
    for scale in experiment.scales.values():
        methods = experiment.methods(scale)
        assert set(scale.methods) <= set(methods)
        chosen = scale.methods or methods
        assert len({repr(methods[method]) for method in chosen}) == len(chosen)
        compared = {one.first for one in experiment.comparisons}
        compared |= {
            one.second for one in experiment.comparisons if isinstance(one.second, str)
        }
        assert compared == set(methods), "a method without a statement, or one unknown"
        assert {one.measure for one in experiment.comparisons} <= {
            "",
            *experiment.measures,
        }
        assert experiment.setting(scale).endswith(".")
