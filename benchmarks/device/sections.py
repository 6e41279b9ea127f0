"""The sections of the check: their rows, budgets, and how each is run and filled in.

Results are a dictionary by section and row, filled as events come; a row without a
`status` was not reached.
"""

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

from device.forms import BASE, LARGEST, ROWS, SIZES, TORCH, list_forms
from device.memory import ENVIRONMENT, try_batch
from device.plans import read_plans
from device.times import measure, torch_command
from device.values import compare, list_cases
from device.workers import Event, run_rows, stream

BUDGETS = {"values": 75, "times": 280, "memory": 115}
"""Seconds of each section; what one leaves, the next may use."""
WEIGHTS = {"350m": 0.45, "60m": 0.2, "1b": 0.35}
"""Shares of the sizes in the budget of `times`."""

NOT_IN_TOYS = ("CoLA", "SLTrain", "LOST, all kept")
"""Forms that a dry run leaves out; its time is that of compiling."""

Row = dict[str, Any]


@dataclasses.dataclass
class Check:
    """One run of the check."""

    kind: str
    toy: bool
    command: Callable[..., list[str]]
    """Worker's name, its arguments -> the command of its process."""
    say: Callable[[str, str, Row], None]
    """Prints a row of a section once it is complete."""
    results: dict[str, dict[str, Row]] = dataclasses.field(default_factory=dict)
    device: Row = dataclasses.field(default_factory=dict)

    def run(self, sections: list[str]) -> None:
        """Run sections in turn, each up to its deadline."""
        deadline = time.monotonic()
        for section in sections:
            self.results[section] = {name: {} for name in list_rows(section, self.kind)}
        for section in sections:
            deadline += BUDGETS[section]
            {"values": self._values, "times": self._times, "memory": self._memory}[
                section
            ](deadline)
            for name, row in self.results[section].items():
                if "status" not in row:
                    row["status"] = "not reached"
                    self.say(section, name, row)

    def start(self, worker: str, deadline: float, *words: str) -> Iterator[Event]:
        """Start a worker: a process, or in a dry run a generator of this one."""
        if self.toy:
            yield from work(worker, list(words), kind=self.kind, toy=True)
            return
        env = ENVIRONMENT if worker == "memory" else {"XLA_CLIENT_MEM_FRACTION": ".9"}
        yield from stream(self.command(worker, *words), env=env, deadline=deadline)

    def take(self, section: str, event: Event, *, prefix: str = "") -> None:
        """Fill a row in, and print it once it is complete."""
        if "device" in event:
            self.device = dict(event)
            return
        name = prefix + event["row"]
        row = self.results[section].setdefault(name, {})
        row |= {key: value for key, value in event.items() if key != "row"}
        if "status" in event:
            self.add_plan(section, name, row)
            self.say(section, name, row)

    def add_plan(self, section: str, name: str, row: Row) -> None:
        """Put the plan's estimates for this device beside what was measured."""
        plans = read_plans(self.device.get("device", ""))
        key = f"largest {name}" if section == "memory" else name
        plan = plans.get(key)
        if plan is None:
            return
        row["plan_peak"], row["plan_seconds"] = plan["peak"], plan["seconds"]
        row["plan_rows"] = plan["rows"]
        same = section == "times" or row.get("rows") == plan["rows"]
        if row.get("peak") and same:
            row["plan_error"] = plan["peak"] / row["peak"] - 1

    def _values(self, deadline: float) -> None:
        run_rows(
            list(self.results["values"])[: 2 if self.toy else None],
            lambda left: self.start("values", deadline, ";".join(left)),
            take=lambda event: self.take("values", event),
            deadline=deadline,
        )
        self._leave_out("values", "a dry run takes two cases")

    def _times(self, deadline: float) -> None:
        budget, until = deadline - time.monotonic(), time.monotonic()
        for size in self._sizes():
            until += budget * WEIGHTS[size] / sum(map(WEIGHTS.get, self._sizes()))
            run_rows(
                self._forms(size),
                lambda left, size=size, until=until: self.start(
                    "times", until, size, ";".join(left)
                ),
                take=lambda event, size=size: self.take(
                    "times", event, prefix=f"{size} "
                ),
                deadline=until,
            )
            if not self.toy:
                self._torch(size, until)
        self._leave_out("times", "not in a dry run")

    def _forms(self, size: str) -> list[str]:
        return [n for n in list_forms(size) if not self.toy or n not in NOT_IN_TOYS]

    def _torch(self, size: str, until: float) -> None:
        name = f"{size} {TORCH}"
        if self.kind != "gpu" or importlib.util.find_spec("torch") is None:
            self.take("times", Event(row=name, status="skipped", note="no torch here"))
            return
        command = torch_command(size, kind=self.kind)
        run_rows(
            ["torch"],
            lambda left: stream(command, env={}, deadline=until),
            take=lambda event: self.take("times", Event({**event, "row": name})),
            deadline=until,
        )
        base = self.results["times"].get(f"{size} {BASE}", {}).get("seconds")
        row = self.results["times"][name]
        if base and "seconds" in row:
            row["of_base"] = row["seconds"] / base

    def _memory(self, deadline: float) -> None:
        budget, until = deadline - time.monotonic(), time.monotonic()
        for size in LARGEST[self.kind][: 1 if self.toy else None]:
            until += budget / len(LARGEST[self.kind])
            self._double(size, until)
        self._leave_out("memory", "a dry run takes one size")

    def _double(self, size: str, until: float) -> None:
        """Double the rows until they do not fit; begin with what the plan says."""
        plan = read_plans(self.device.get("device", "")).get(f"largest {size}")
        rows, best, failed = (plan or {}).get("rows", 64), Row(), 0
        while rows and time.monotonic() < until:
            found: list[Event] = []
            run_rows(
                [size],
                lambda left, rows=rows: self.start("memory", until, size, str(rows)),
                take=found.append,
                deadline=until,
            )
            tried = next((each for each in found if "status" in each), None)
            self.device = next((e for e in found if "device" in e), self.device)
            if tried is None or tried["status"] == "error":
                if tried is not None and not best:
                    self.take("memory", tried)
                break
            if tried["fits"]:
                best, rows = {"rows": rows, "peak": tried["peak"]}, 2 * rows
            else:
                failed = rows
                rows = 0 if best else rows // 2
            if failed and failed <= rows:
                break
        if best:
            note = f"{failed} rows do not fit" if failed else "more was not tried"
            self.take("memory", Event(row=size, status="done", note=note, **best))

    def _sizes(self) -> list[str]:
        if self.toy:
            return list(SIZES[:1])
        return [size for size in SIZES if size in ROWS[self.kind]]

    def _leave_out(self, section: str, why: str) -> None:
        """In a dry run, list what it leaves out."""
        for name, row in self.results[section].items():
            if self.toy and "status" not in row:
                self.take(section, Event(row=name, status="skipped", note=why))


def list_rows(section: str, kind: str) -> list[str]:
    """List all rows of a section, the most telling first."""
    if section == "values":
        return list_cases(kind)
    if section == "memory":
        return list(LARGEST[kind])
    sizes = [size for size in SIZES if size in ROWS[kind]]
    torch = [TORCH] if kind == "gpu" else []
    return [f"{size} {name}" for size in sizes for name in [*list_forms(size), *torch]]


def work(
    worker: str, words: list[str], *, kind: str, toy: bool = False
) -> Iterator[Event]:
    """Do a worker's part; what it says first is what it runs on."""
    import jax

    device = jax.devices()[0]
    yield Event(
        device=device.device_kind,
        platform=device.platform,
        memory=(device.memory_stats() or {}).get("bytes_limit"),
    )
    if worker == "values":
        yield from compare(words[0].split(";"), kind=kind, toy=toy)
    elif worker == "times":
        size, names = words
        yield from measure(names.split(";"), size=size, kind=kind, toy=toy)
    else:
        size, rows = words
        yield from try_batch(size, int(rows), kind=kind, toy=toy)
