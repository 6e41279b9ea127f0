"""Partial results: kept by whoever is stopped, found by the same call alone."""

import pytest

from lostjax.disk.partial import PartialResults
from lostjax.errors import ConfigError

IDENTITY = {"run": "runs/a", "step": 3, "--tokens": (1, 2)}


def stop(path, *, error=KeyboardInterrupt, names="ab", identity=IDENTITY):
    with (
        pytest.raises(error),
        PartialResults(path, identity=identity) as partial,
    ):
        for name in names:
            partial.keep(name, {"nats": [0.1, 1e-30], "of": name})
        raise error


def test_a_stopped_call_is_continued_by_an_equal_one(tmp_path, capsys):
    path = tmp_path / "x.partial.jsonl"
    stop(path)
    said = capsys.readouterr().err
    assert f"stopped; {path} keeps 2 results, and the same command continues" in said
    assert said.count("\n") == 1
    with PartialResults(path, identity=IDENTITY) as partial:
        assert "2 results of an earlier call stay" in capsys.readouterr().err
        assert len(partial) == 2 and partial.find("c") is None
        assert partial.find("b") == {"nats": [0.1, 1e-30], "of": "b"}
        partial.keep("c", 3)
    assert not path.exists() and not capsys.readouterr().err


def test_another_identity_starts_over_and_names_what_differs(tmp_path, capsys):
    path = tmp_path / "x"
    stop(path)
    capsys.readouterr()
    other = {"run": "runs/a", "step": 4, "--seed": 0}
    stop(path, names="", identity=other)
    said = capsys.readouterr().err
    assert "an earlier call differs in --seed, --tokens, step" in said
    assert not path.exists()  # nothing was computed


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_or_damaged_line_is_computed_again(tmp_path, capsys, cut):
    path = tmp_path / "x"
    stop(path, error=RuntimeError)
    data = bytearray(path.read_bytes())
    if cut == 1:
        del data[-cut:]
    else:
        data[-cut - 40] ^= 1
    path.write_bytes(bytes(data))
    with PartialResults(path, identity=IDENTITY) as partial:
        assert partial.find("a") and partial.find("b") is None
        partial.keep("b", 1)
        stop(path, names="", error=RuntimeError)  # reads what is there
    assert "2 results" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no JSON\n", b'{"step": 0}\n', b"\xff"])
def test_a_file_of_something_else_starts_over(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    stop(path, names="a")
    with PartialResults(path, identity=IDENTITY) as partial:
        assert len(partial) == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no: cannot be written: No such file"):
        PartialResults(tmp_path / "none" / "no", identity=IDENTITY)
