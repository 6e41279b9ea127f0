"""Results of a long program, kept line by line until the program is done.

    {"step": 0, "identity": {"run": "runs/a", "tokens": 32768, ...}, "hash": "..."}
    {"step": 1, "name": "random 0.5", "value": ..., "hash": "..."}

A program that was stopped or killed finds there what it had computed, if it is called
again with an equal identity: all that decides the results. If the identity differs, or
the first line is damaged, the file starts over. Lines are chained
(`lostjax.disk.chain`): those from the first damaged one on are computed again.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lostjax.disk.chain import chain_line, read_chain
from lostjax.disk.files import replace_file
from lostjax.disk.lines import AppendingFile
from lostjax.errors import ConfigError


class PartialResults:
    """What a program has computed so far; a context that removes its file at the end.

    Standard error has a line about results that were there. If the block is left by an
    exception the file stays, and after Ctrl-C a line names it. A full disk stops
    nothing: see `AppendingFile`.

    Args:
      path: the file, whose directory exists.
      identity: all that decides the results, by name; what JSON can hold.

    Raises:
      ConfigError: if the file cannot be read or written.

    Example:
      with PartialResults(path, identity={"run": "a", "seed": 0}) as partial:
          value = partial.find("first")
          if value is None:
              partial.keep("first", value := compute())
          write_page(value)
    """

    def __init__(self, path: Path, *, identity: Mapping[str, Any]) -> None:
        self.path = path
        """Path of the file."""
        self.notice = ""
        """One line about what was found there; empty if nothing was."""
        try:
            self._open(json.loads(json.dumps(identity)))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None

    def _open(self, wanted: Mapping[str, Any]) -> None:
        path = self.path
        there = path.read_bytes() if path.exists() else b""
        lines = read_chain(there, allowed=lambda value: True)
        self._found: dict[str, Any] = {}
        kept, link = b"", ""
        differences = _compare(lines[0].values if lines else None, wanted)
        for line in lines if not differences else []:
            if line.values is None:
                break
            if "name" in line.values:
                self._found[line.values["name"]] = line.values["value"]
            kept, link = kept + line.raw, line.link
        if self._found:
            self.notice = f"{path}: {len(self._found)} results of an earlier call stay"
        elif there and differences:
            self.notice = (
                f"{path}: an earlier call differs in {', '.join(differences)}; "
                "its results are computed again"
            )
        if not kept:
            kept, link = chain_line({"step": 0, "identity": wanted}, "")
        if kept != there or path.stat().st_nlink > 1:
            replace_file(path, kept)
        self._link, self._file = link, AppendingFile(path)

    def __len__(self) -> int:
        return len(self._found)

    def find(self, name: str) -> Any:
        """Return the value of that name; None if there is none."""
        return self._found.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Append a value at once.

        Args:
          name: of the value; new.
          value: what JSON can hold, without NaN, and not None.
        """
        self._found[name] = value
        values = {"step": len(self._found), "name": name, "value": value}
        line, self._link = chain_line(values, self._link)
        self._file.write(line)

    def discard(self) -> None:
        """Forget all values, so that the file is removed at the end in any case."""
        self._found.clear()

    def __enter__(self) -> "PartialResults":
        """Print what was found."""
        if self.notice:
            print(self.notice, file=sys.stderr, flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; remove it if no exception was raised, or nothing is in it."""
        self._file.close()
        if kind is None or not self._found:
            self.path.unlink(missing_ok=True)
        elif issubclass(kind, KeyboardInterrupt):
            print(
                f"stopped; {self.path} keeps {len(self)} results, and the same command "
                "continues from there",
                file=sys.stderr,
            )


def _compare(first: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[str]:
    """List the names in which a file's first line differs from what is wanted."""
    found = first.get("identity") if first else None
    if not isinstance(found, dict):
        return ["what it was of"]
    names = sorted({*found, *wanted})
    return [name for name in names if found.get(name) != wanted.get(name)]
