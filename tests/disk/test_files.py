"""A replaced file is the old one or the new one, whole, whatever happens between."""

import os

from lostjax.disk.files import replace_file


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A loss of power keeps names and contents apart unless they are put in order."""
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            done.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, noted)
    replace_file(tmp_path / "a", b"new")
    assert done == ["fsync", "replace"]
    assert (tmp_path / "a").read_bytes() == b"new"
