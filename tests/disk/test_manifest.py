"""Manifests: every changed, cut or missing byte is found, wherever it lies."""

import json
import random

import pytest

from lostjax.disk import manifest
from lostjax.disk.manifest import (
    MANIFEST,
    ManifestError,
    find_damage,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Files below, at and above the size of a piece, an empty one, and a deep one."""
    monkeypatch.setattr(manifest, "PIECE_BYTES", 64)
    rng = random.Random(0)
    for name, size in {"a/0": 64, "a/b/c": 150, "d": 1, "empty": 0}.items():
        path = tmp_path / "step" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    write_manifest(tmp_path / "step")
    return tmp_path / "step"


def files(directory):
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def test_a_directory_as_it_was_written_is_whole(directory):
    assert find_damage(directory) == []
    sizes = {name: entry.size for name, entry in read_manifest(directory).items()}
    assert sizes == {"a/0": 64, "a/b/c": 150, "d": 1, "empty": 0}
    assert json.loads((directory / MANIFEST).read_text())["format"] == 1


def test_a_bit_flipped_in_any_byte_is_found(directory):
    rng = random.Random(1)
    for path in files(directory):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            (damage,) = find_damage(directory)
            assert path.relative_to(directory).as_posix() in damage
        path.write_bytes(whole)
    assert find_damage(directory) == []


@pytest.mark.parametrize(
    "name, size",
    [
        ("d", 10**30),
        ("d", -1),
        ("a\x00", 0),
        ("a\ud800", 0),
        ("", 0),
        ("a/", 0),
        ("a//0", 0),
        ("two\nlines", 0),
        ("../d", 0),
    ],
)
def test_a_forged_manifest_is_damage_in_one_line(directory, name, size):
    text = manifest._text({name: manifest.FileEntry(size, ())})
    (directory / MANIFEST).write_bytes(text.encode())
    assert find_damage(directory) == ["manifest.json has an unknown format"]


def test_the_damaged_piece_is_named(directory):
    path = directory / "a/b/c"
    content = bytearray(path.read_bytes())
    content[149] ^= 1
    path.write_bytes(content)
    assert find_damage(directory) == ["a/b/c: bytes 128 to 150 differ"]
    assert find_damage(directory, items=("d", "other")) == []
    assert find_damage(directory, items=("a",)) == find_damage(directory)


def test_every_cut_and_every_extra_byte_is_found(directory):
    for path in files(directory):
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            assert len(find_damage(directory)) == 1
        path.write_bytes(whole + b"x")
        assert len(find_damage(directory)) == 1
        path.write_bytes(whole)


def test_missing_and_unreadable_files_are_named(directory):
    (directory / "d").unlink()
    (directory / "empty").unlink()
    (directory / "empty").mkdir()
    (directory / "empty" / "x").mkdir()
    (directory / "a/b/c").rename(directory / "a/b/d")
    damage = find_damage(directory)
    assert "d: is missing" in damage and "a/b/c: is missing" in damage
    (directory / MANIFEST).unlink()
    assert find_damage(directory) == ["manifest.json is missing"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"piece_bytes": 65},
        {"files": []},
        {"files": {"/etc/passwd": [0, []]}},
        {"files": {"a/../../x": [0, []]}},
        {"files": {"d": [1, []]}},
        {"files": {"d": [True, ["0" * 32]]}},
        {"files": {"d": [1, ["g" * 32]]}},
        {"files": {"d": [1]}},
    ],
)
def test_a_sealed_manifest_of_another_kind_is_refused(directory, change):
    content = {"format": 1, "piece_bytes": 64, "files": {}} | change
    body = json.dumps(content)[:-1].encode()
    seal = manifest._SEAL.format(manifest._digest(body)).encode()
    (directory / MANIFEST).write_bytes(body + seal)
    with pytest.raises(ManifestError, match="has an unknown format"):
        read_manifest(directory)
