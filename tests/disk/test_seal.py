"""Files with hashes: any change is found, and a kill leaves no wrong hash."""

import pytest

from lostjax.disk.seal import (
    SealError,
    fits_hash_beside,
    hash_file_of,
    read_sealed,
    seal,
    unseal,
    was_sealed_as,
    write_with_hash,
)

VALUES = {"steps": 600, "inner": {"rate": 1e-3, "name": "é"}}


def test_what_was_sealed_is_read():
    assert unseal(seal(VALUES)) == (VALUES, True)
    assert unseal(b'{"steps": 3}') == ({"steps": 3}, False)


def test_every_flipped_bit_and_every_cut_is_found():
    whole = seal(VALUES)
    for number in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[number // 8] ^= 1 << number % 8
        try:
            values, is_sealed = unseal(bytes(flipped))
        except SealError:
            continue
        # Only the name of the hash can be lost: whoever expects a hash finds none.
        assert not is_sealed and VALUES.items() <= values.items()
    for end in range(len(whole)):
        with pytest.raises(SealError):
            unseal(whole[:end])
    for crafted in (b"[" * 100_000, b'{"hash": 1}', b'{"hash": "x"}', b"9" * 5000):
        with pytest.raises(SealError):
            unseal(crafted)


def test_a_damaged_file_is_known_by_its_hash_and_an_edited_one_is_not():
    whole, edited = seal(VALUES), seal(VALUES | {"steps": 601})
    assert was_sealed_as(whole.replace(b"600", b"6x0"), VALUES)
    assert was_sealed_as(b"\x00" * 60 + whole[60:], VALUES)
    assert was_sealed_as(whole[:-20] + b"~~" + whole[-18:], VALUES)
    swapped = edited[: -len(b'"0"}') - 40] + whole[-len(b'"0"}') - 40 :]
    assert not was_sealed_as(swapped, VALUES | {"steps": 601})
    assert not was_sealed_as(edited, VALUES) and not was_sealed_as(b"", VALUES)


def test_a_file_of_any_format_has_its_hash_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    write_with_hash(path, b"first")
    assert fits_hash_beside(path) is True
    path.write_bytes(b"fIrst")
    assert fits_hash_beside(path) is False
    hash_file_of(path).write_bytes(b"")
    assert fits_hash_beside(path) is False
    hash_file_of(path).unlink()
    assert fits_hash_beside(path) is None


@pytest.mark.parametrize("writes", [0, 1])
def test_a_kill_between_a_file_and_its_hash_leaves_no_wrong_hash(
    tmp_path, monkeypatch, writes
):
    from lostjax.disk import seal as module

    path = tmp_path / "tokenizer.json"
    write_with_hash(path, b"first")
    write, left = module.replace_file, [writes]

    def killed(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    monkeypatch.setattr(module, "replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_with_hash(path, b"second")
    assert fits_hash_beside(path) is None
    assert path.read_bytes() == [b"first", b"second"][writes]


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "gone")
