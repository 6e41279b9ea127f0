"""Run draws, judge what came of them, and count."""

import json
import resource
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from campaign.outcome import read_outcome
from campaign.supervisor import ROOT
from campaign.table import ATTACKS, make_draw
from campaign.world import STEPS, Violation, World

LEFTOVERS = (".saving", ".deleting", ".making-", "orbax-checkpoint-tmp", ".tmp")
"""Parts of the names of files that no finished run has."""


class Campaign:
    """Draws that share a text, caches, and the outcomes of undisturbed runs."""

    def __init__(self, *, mounts: bool) -> None:
        self._mounts = mounts
        self._place = Path(tempfile.mkdtemp(prefix="campaign-"))
        self._shared = self._place / "shared"
        self._shared.mkdir()
        text = (ROOT / "LICENSE").read_text()
        (self._shared / "text.txt").write_text(text[:12_000])
        self._wanted: dict[int, dict] = {}

    def close(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)

    def run(self, number: int) -> dict:
        """Run a draw; return its line."""
        draw = make_draw(number)
        line = {
            "seed": number,
            "promise": draw.attack.promise,
            "attack": draw.name,
            "processes": draw.processes,
            "phase": draw.phase,
        }
        if draw.attack.needs_mounts and not self._mounts:
            return line | {"outcome": "no mount namespace", "survived": None}
        wanted = self._find_wanted(draw.processes)
        world = World(
            self._new_place(),
            shared=self._shared,
            processes=draw.processes,
            rng=draw.rng,
            phase=draw.phase,
            codes=draw.attack.codes,
        )
        began, used = time.monotonic(), _cpu_seconds()
        try:
            outcome, survived = self._attack(draw.attack, world, wanted), True
        except Violation as violation:
            outcome, survived = violation.args[0], False
            said = f"{violation.args[1][:1500]} | {world.said[-500:]}"
            world.detail = f"{world.detail} | {said}"
        finally:
            world.close()
        return line | {
            "hit": sorted(world.hit) if world.hit else [],
            "outcome": outcome,
            "survived": survived,
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(_cpu_seconds() - used, 1),
            "detail": world.detail.strip(),
        }

    def _attack(self, attack, world, wanted) -> str:
        try:
            group = attack.act(world)
        except AssertionError as error:  # of a supervisor that waited for too long
            raise Violation("hang", str(error)) from None
        good = not any(world.end(group))
        if attack.starts_again or not good:
            world.after()
            world.codes = {2} if attack.may_refuse else set()
            group = world.start()
            codes = world.end(group)
            world.check()
            if any(codes):
                world.detail += f" | {_find_refusal(group)}"
                return "refused"
        world.check()
        try:
            found = read_outcome(world.directory, steps=STEPS)
        except Exception as error:
            raise Violation("different", f"not readable: {error!r}") from None
        lost = find_lost_lines(found, wanted) if attack.may_lose_lines else []
        if lost and all(f"{name}.jsonl" in world.said for name in lost):
            compare(found | {name: wanted[name] for name in lost}, wanted)
            return "lines lost, and named"
        compare(found, wanted)
        return "same"

    def _find_wanted(self, processes: int) -> dict:
        """Read the outcome of a run that nothing happened to."""
        if processes not in self._wanted:
            world = World(self._new_place(), shared=self._shared, processes=processes)
            world.end(world.start())
            self._wanted[processes] = read_outcome(world.directory, steps=STEPS)
            world.close()
        return self._wanted[processes]

    def _new_place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._place))


def _find_refusal(group) -> str:
    """Find the line that says why a run cannot resume; the first process's."""
    found = []
    for run in group:
        if run.process.returncode == 0:
            continue
        lines = [line for line in run.said().splitlines() if ": error: " in line]
        if len(lines) != 1:
            raise Violation("not one line", run.said())
        found += lines
    return found[0]


def compare(found: dict, wanted: dict) -> None:
    """Compare a finished run with one that nothing happened to.

    Raises:
      Violation: if they differ, or if a file was left over.
    """
    for name in ("metrics", "evaluations", "arrays"):
        if found[name] != wanted[name]:
            raise Violation(
                "different", f"{name}: {_first_difference(found, wanted, name)}"
            )
    missing = sorted(wanted["files"] - found["files"])
    left = sorted(name for name in found["files"] if _is_leftover(Path(name).name))
    if missing or left:
        raise Violation("files", f"missing {missing}, left {left}")


def find_lost_lines(found: dict, wanted: dict) -> list[str]:
    """List the files of lines in which some are missing and none is wrong."""
    return [
        name
        for name in ("metrics", "evaluations")
        if found[name] != wanted[name]
        and all(line in wanted[name] for line in found[name])
    ]


def _first_difference(found: dict, wanted: dict, name: str) -> str:
    there, here = found[name], wanted[name]
    if name == "arrays":
        return next(key for key in here if there.get(key) != here[key])
    if len(there) != len(here):
        return f"{len(there)} lines, not {len(here)}"
    return next(f"{a}, not {b}" for a, b in zip(there, here, strict=True) if a != b)


def _is_leftover(name: str) -> bool:
    return name == "lock" or any(part in name for part in LEFTOVERS)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_file(path: Path) -> dict[int, dict]:
    """Read the lines of draws by number; a torn last line does not count."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return {line["seed"]: line for line in whole}


def format_table(lines: list[dict]) -> str:
    """Format promise, attacks drawn and survived as a Markdown table."""
    drawn = Counter(line["promise"] for line in lines if line["survived"] is not None)
    survived = Counter(line["promise"] for line in lines if line["survived"])
    rows = ["| promise | attacks drawn | survived |", "| --- | ---: | ---: |"]
    for promise in dict.fromkeys(attack.promise for attack in ATTACKS.values()):
        rows.append(f"| {promise} | {drawn[promise]} | {survived[promise]} |")
    rows.append(f"| all | {drawn.total()} | {survived.total()} |")
    return "\n".join(rows)
