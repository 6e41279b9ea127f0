"""Token files: documents end at end of text; broken ones are one clear line."""

import io
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lostjax.data import DataError
from lostjax.data.text import token_files
from lostjax.data.text.token_files import TokenFiles, open_tokens


def documents(path, **options):
    files = TokenFiles((path,), **options)
    return [
        np.asarray(ids).tolist() for ids in files.documents(eos_id=9, vocab_size=10)
    ]


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "i8"])
def test_documents_end_at_end_of_text(tmp_path, dtype):
    path = tmp_path / "a.npy"
    np.save(path, np.array([9, 1, 2, 9, 9, 3, 9, 4], dtype))
    assert documents(path) == [[1, 2], [3], [4]]


def test_bin_is_uint16(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(np.array([1, 9, 2], "<u2").tobytes())
    assert documents(path) == [[1], [2]]


@pytest.mark.parametrize("block", [1, 2, 3, 8])
def test_blocks_end_anywhere(tmp_path, monkeypatch, block):
    monkeypatch.setattr(token_files, "_BLOCK", block)
    path = tmp_path / "a.npy"
    np.save(path, np.array([9, 1, 2, 9, 9, 3, 9, 4]))
    assert documents(path) == [[1, 2], [3], [4]]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_BLOCK", 1 << 12)
    path = tmp_path / "a.bin"
    np.zeros(1 << 20, "<u2").tofile(path)
    files = TokenFiles((path,))
    tracemalloc.start()
    (only,) = files.documents(eos_id=9, vocab_size=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert only.size == 1 << 20 and peak < 200_000


def test_stretches_join_to_the_whole(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    parts = [documents(path, stop=0.7), documents(path, start=0.7)]
    assert [part[0] for part in parts] == [list(range(6)), [6, 7, 8]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, 10]), "token id 10 at index 1 is outside the vocabulary of 10"),
        (np.array([-1, 1]), "token id -1 at index 0"),
        (np.ones((2, 2), int), "one axis"),
        (np.array([1.0]), "integers, not float64"),
        (np.array([True]), "integers, not bool"),
        (np.array([], int), "empty"),
        (np.array([{}]), "not an array"),
    ],
)
def test_bad_arrays_are_named(tmp_path, array, message):
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=f"a.npy: .*{message}") as caught:
        documents(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="a.npy: not an array"):
        open_tokens(path)
    assert not (tmp_path / "sprung").exists()


def test_odd_bytes_are_named(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match="3 bytes are not a whole number"):
        open_tokens(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_npy_files_give_a_data_error_or_tokens(tmp_path, data):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(5))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.npy"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert documents(path) is not None
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", ["a.npy", "a.bin"])
def test_a_file_that_is_cut_while_it_is_read_is_one_line(tmp_path, name):
    path = tmp_path / name
    ids = np.arange(100_000, dtype="<u2") % 9
    np.save(path, ids) if name == "a.npy" else ids.tofile(path)
    tokens = open_tokens(path)
    np.testing.assert_array_equal(tokens[70_000:80_000], ids[70_000:80_000])
    os.truncate(path, 150_000)  # a mapped file would end the process here
    np.testing.assert_array_equal(tokens[:10_000], ids[:10_000])
    with pytest.raises(DataError, match=f"{name}: was cut while it was being read"):
        np.asarray(tokens[70_000:80_000])


def test_a_file_that_is_replaced_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.bin"
    np.arange(9, dtype="<u2").tofile(path)
    tokens = open_tokens(path)
    path.unlink()
    path.write_bytes(b"no")
    np.testing.assert_array_equal(tokens, np.arange(9))
    assert len(tokens[7:20]) == 2 and len(tokens[5:3]) == 0
