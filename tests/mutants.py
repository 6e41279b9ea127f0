"""Break the code on purpose, a line at a time, and see whether the tests notice.

`make mutants` applies each breakage of mutants.toml to a copy of the tree and runs the
test files named beside it. A breakage that those tests pass has survived: it is a hole
in the tests, and the exit code is 1. Run it on a tree whose tests pass unbroken.

    python tests/mutants.py [--list] [--only TEXT] [--tree DIR [--moved FILE]]

`--tree` breaks another checkout of the project, such as an older one: there a line is
looked for in all of lostjax/ if its file has moved, and a test file by its name.
`--moved` names a file of lines `OLD NEW`: test files that were renamed as well.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
PROCESSES = 2
CPU_SECONDS = 600  # a breakage that never ends is noticed, too
COPIED = ("lostjax", "tests", "benchmarks", "LICENSE", "README.md", "setup.cfg")


class Mutant(NamedTuple):
    """One breakage: `line`, which stands once in `file`, becomes another."""

    what: str
    file: str
    line: str
    becomes: str
    tests: list[str]


class Refused(Exception):
    """A breakage that cannot be applied as it is written."""


def read_mutants() -> list[Mutant]:
    """Read the sample, in its order."""
    text = (HERE / "tests" / "mutants.toml").read_text()
    return [Mutant(**row) for row in tomllib.loads(text)["mutant"]]


def place(mutant: Mutant, tree: Path, *, moved: dict[str, str]) -> Mutant:
    """Find the breakage's file and tests in a tree.

    Raises:
        Refused: the line does not stand there exactly once, or a test file is missing.
    """
    file = _find_line(mutant, tree)
    tests = [_find_test(name, tree, moved=moved) for name in mutant.tests]
    return mutant._replace(file=file, tests=tests)


def _find_line(mutant: Mutant, tree: Path) -> str:
    own = tree / mutant.file
    files = [own] if own.is_file() else sorted((tree / "lostjax").rglob("*.py"))
    counts = {path: path.read_text().count(mutant.line) for path in files}
    found = [path for path, count in counts.items() for _ in range(count)]
    if len(found) != 1:
        raise Refused(
            f"{mutant.what}: {mutant.line!r} stands {len(found)} times in "
            f"{mutant.file if own.is_file() else 'lostjax/'}, must once"
        )
    if mutant.line == mutant.becomes:
        raise Refused(f"{mutant.what}: {mutant.line!r} stays as it is")
    return found[0].relative_to(tree).as_posix()


def _find_test(name: str, tree: Path, *, moved: dict[str, str]) -> str:
    path = moved.get(f"tests/{name}", f"tests/{name}")
    if (tree / path).is_file():
        return path
    found = sorted((tree / "tests").rglob(Path(path).name))
    if len(found) != 1:
        raise Refused(f"tests/{name}: {len(found)} files of that name in {tree}")
    return found[0].relative_to(tree).as_posix()


def survives(mutant: Mutant, copy: Path) -> bool:
    """Break a copy of the tree, run the tests named, and mend the copy.

    Raises:
        Refused: pytest ran no tests, or could not read them.
    """
    path = copy / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.line, mutant.becomes))
    # No bytecode: it is told apart by size and second, which a breakage may share.
    quick = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    options += ["-m", "not slow and not torture"]
    limited = ["sh", "-c", f'ulimit -t {CPU_SECONDS}; exec "$@"', "sh"]
    try:
        done = subprocess.run(
            [*limited, sys.executable, "-m", "pytest", *options, *mutant.tests],
            cwd=copy,
            env=os.environ | quick,
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(whole)
    if done.returncode > 1:
        raise Refused(
            f"{mutant.what}: pytest ended with {done.returncode}\n{done.stdout}"
        )
    return done.returncode == 0


def run(mutants: list[Mutant], tree: Path) -> int:
    """Try the breakages, several at once, and return how many survive."""
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place_of_copies:
        for number in range(PROCESSES):
            copy = Path(place_of_copies) / str(number)
            copy.mkdir()
            for name in COPIED:
                _copy(tree / name, copy / name)
            copies.put(copy)

        def attempt(mutant: Mutant) -> bool:
            copy, began = copies.get(), time.monotonic()
            try:
                lives = survives(mutant, copy)
            finally:
                copies.put(copy)
            verdict = "SURVIVED" if lives else "killed  "
            seconds = time.monotonic() - began
            print(
                f"{verdict} {seconds:4.0f} s  {mutant.file}: {mutant.what}", flush=True
            )
            return lives

        with ThreadPoolExecutor(PROCESSES) as pool:
            return sum(pool.map(attempt, mutants))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print, and run nothing")
    parser.add_argument(
        "--only", default="", help="those that name TEXT in file or what"
    )
    parser.add_argument("--tree", type=Path, default=HERE, help="the checkout to break")
    parser.add_argument("--moved", type=Path, help="test files renamed since that tree")
    asked = parser.parse_args()
    moved = {}
    if asked.moved:
        pairs = (line.split() for line in asked.moved.read_text().splitlines())
        moved = {new: old for old, new in pairs}
    try:
        mutants = [
            place(mutant, asked.tree.resolve(), moved=moved)
            for mutant in read_mutants()
            if asked.only in f"{mutant.file} {mutant.what}"
        ]
        if asked.list:
            for mutant in mutants:
                print(f"{mutant.file}: {mutant.what}  ({' '.join(mutant.tests)})")
            return 0
        survivors = run(mutants, asked.tree.resolve())
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(f"{len(mutants) - survivors} of {len(mutants)} killed, {survivors} survived")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
