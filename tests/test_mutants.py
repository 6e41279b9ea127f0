"""The sample of `make mutants` fits the code; whether it is noticed takes minutes."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "mutants", Path(__file__).with_name("mutants.py")
)
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)


def test_every_breakage_can_be_applied():
    sample = mutants.read_mutants()
    assert len({mutant.what for mutant in sample}) == len(sample) == 62
    for mutant in sample:
        mutants.place(mutant, mutants.HERE, moved={})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"line": "no such line"}, "stands 0 times"),
        ({"line": "jnp"}, "must once"),
        ({"becomes": None}, "stays as it is"),
        ({"tests": ["no/test_such.py"]}, "0 files of that name"),
    ],
)
def test_a_breakage_that_cannot_be_applied_is_refused(change, message):
    mutant = mutants.read_mutants()[0]
    if change == {"becomes": None}:
        change = {"becomes": mutant.line}
    with pytest.raises(mutants.Refused, match=message):
        mutants.place(mutant._replace(**change), mutants.HERE, moved={})


def test_survival_is_told_from_death(tmp_path):
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    test = "from doubling import double\n\ndef test():\n    assert double(2) == 4\n"
    (tmp_path / "test_it.py").write_text(test)
    for becomes, lives in (("3 * x", False), ("x * 2", True), ("x**2", True)):
        mutant = mutants.Mutant("", "doubling.py", "2 * x", becomes, ["test_it.py"])
        assert mutants.survives(mutant, tmp_path) == lives
        assert "2 * x" in (tmp_path / "doubling.py").read_text()
