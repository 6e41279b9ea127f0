"""Programs that are kept from one run of the tests to the next."""

import zlib

from kept_programs import find_place, tidy


def test_torn_entries_go_and_whole_ones_stay(tmp_path):
    whole = zlib.compress(b"program" * 100)
    (tmp_path / "a-cache").write_bytes(whole)
    (tmp_path / "b-cache").write_bytes(whole[:10])
    (tmp_path / "c-cache").write_bytes(b"")
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a-cache"]


def test_too_many_are_all_made_again(tmp_path):
    (tmp_path / "a-cache").write_bytes(zlib.compress(b"program"))
    tidy(tmp_path, largest=3)
    assert list(tmp_path.iterdir()) == []


def test_a_new_place_is_made_in_the_environment(tmp_path):
    place = find_place(tmp_path)
    assert place == find_place(tmp_path) and place.parent == tmp_path / "programs"
    tidy(place)
    assert place.is_dir()
