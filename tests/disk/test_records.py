"""Lines appended by several processes: whole, in spite of crashes and full disks."""

import json
import multiprocessing
import os

import pytest

from lostjax.disk import records
from lostjax.disk.records import append_record, read_records


def values(path):
    return [record.value for record in read_records(path)]


def append_many(path, writer):
    for number in range(40):
        append_record(path, {"writer": writer, "number": number, "filler": "x" * 5000})


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    assert read_records(path) == []
    append_record(path, {"a": 1, "b": None})
    append_record(path, {"ü": "line\nbreak"})
    assert values(path) == [{"a": 1, "b": None}, {"ü": "line\nbreak"}]
    assert len(path.read_text().splitlines()) == 2


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record(tmp_path / "x.jsonl", {"a": float("nan")})
    assert not (tmp_path / "x.jsonl").exists()


def test_processes_append_whole_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = values(path)
    for writer in range(3):
        own = [value["number"] for value in found if value["writer"] == writer]
        assert own == list(range(40))


@pytest.mark.parametrize(
    "torn", [b'{"a": 2', b'{"a": 2}', b"\xff", b'{"a": "' + b"x" * 70_000]
)
def test_a_torn_last_line_is_not_read_and_is_removed(tmp_path, torn):
    path = tmp_path / "x.jsonl"
    append_record(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert values(path) == [{"a": 1}]
    append_record(path, {"a": 3})
    assert path.read_bytes() == whole + b'{"a": 3}\n'


def test_a_torn_only_line_is_removed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a"')
    append_record(path, {"a": 3})
    assert values(path) == [{"a": 3}]


@pytest.mark.parametrize("line", [b"[1]", b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_another_broken_line_has_no_value(tmp_path, line):
    path = tmp_path / "x.jsonl"
    append_record(path, {"a": 1})
    path.write_bytes(path.read_bytes() + line + b"\n")
    append_record(path, {"a": 2})
    assert [tuple(record) for record in read_records(path)] == [
        (1, {"a": 1}),
        (2, None),
        (3, {"a": 2}),
    ]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    append_record(path, {"a": 1})
    before = path.read_bytes()
    written = []

    def write(handle, data, place):
        if written:
            raise OSError(28, "No space left on device")
        written.append(os.pwritev(handle, [data[:3]], place))
        return written[0]

    monkeypatch.setattr(records.os, "pwrite", write)
    with pytest.raises(OSError, match="No space left on device.*x.jsonl"):
        append_record(path, {"a": 2})
    assert written == [3] and path.read_bytes() == before
    monkeypatch.undo()
    append_record(path, {"a": 2})
    assert json.loads(path.read_text().splitlines()[-1]) == {"a": 2}
