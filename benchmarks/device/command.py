"""The command line of `benchmarks/gpu.py` and `benchmarks/tpu.py`."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

NEEDED = ("jax", "flax", "optax", "numpy", "jaxtyping")
"""All that this check imports, apart from lostjax's own sources."""
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""A dry run compiles much and runs little."""


def main(kind: str, words: list[str], *, doc: str, script: str) -> int:
    """Run the check; returns the exit code.

    Args:
        kind: gpu or tpu.
        words: the command line's words.
        doc: the program's docstring.
        script: path of the program, which its workers are started with.

    Returns:
        0; 1 if a row failed; 2 if nothing could run.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        print(
            f"missing: {names}. Run: python3 -m pip install {names}. Or carry wheels: "
            f"python3 -m pip download -d wheels {names} elsewhere, and here "
            f"python3 -m pip install --no-index --find-links wheels {names}",
            file=sys.stderr,
        )
        return 2
    options = _parse(words, doc)
    if options.dry:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"{FAST} {os.environ.get('XLA_FLAGS', '')}".strip()
    from device.forms import kernels_wherever_they_fit

    with kernels_wherever_they_fit():
        if options.make_plan:
            return _make_plan(options.make_plan)
        if options.worker:
            return _work(kind, options.worker, options.words)
        return _check(kind, options, words, script)


def _parse(words: list[str], doc: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", default="values,times,memory", help="by commas")
    parser.add_argument("--dry", action="store_true", help="toy sizes on a CPU")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", default="", metavar="FILE", help="write the page")
    parser.add_argument(
        "--make-plan",
        default="",
        metavar="TOPOLOGIES",
        help="compile the plan's estimates for chips by commas, such as h100:1,h200:1",
    )
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    known = ["values", "times", "memory"]
    wrong = set(options.sections.split(",")) - set(known)
    if wrong:
        parser.error(
            f"--sections={options.sections}: {', '.join(sorted(wrong))} is not among "
            f"{', '.join(known)}"
        )
    return options


def _check(
    kind: str, options: argparse.Namespace, words: list[str], script: str
) -> int:
    from device import report
    from device.sections import BUDGETS, Check

    sections = options.sections.split(",")
    parts = ", ".join(f"{name} {BUDGETS[name]} s" for name in sections)
    minutes = sum(BUDGETS[name] for name in sections) / 60
    what = "a dry run on this CPU" if options.dry else "ratios are to LOST"
    first = f"A check of one {kind.upper()}: {parts}; at most {minutes:.1f} minutes"
    print(f"{first}; {what}", flush=True)
    headed: set[str] = set()

    def say(section: str, name: str, row: dict[str, Any]) -> None:
        if section not in headed:
            headed.add(section)
            print(report.format_heads(section))
        print(report.format_row(section, name, row), flush=True)

    def command(worker: str, *arguments: str) -> list[str]:
        return [sys.executable, script, f"--worker={worker}", *arguments]

    check = Check(kind, options.dry, command, say)
    check.run(sections)
    run = report.describe(check, words)
    for path, text in (
        (options.json, report.format_json(run, check.results)),
        (options.markdown, report.format_markdown(run, check.results)),
    ):
        if path:
            Path(path).write_text(text)
            print(f"wrote {path}")
    failed = [
        f"{section} {name}"
        for section, rows in check.results.items()
        for name, row in rows.items()
        if row["status"] == "error"
    ]
    if failed:
        print(f"failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _work(kind: str, worker: str, words: list[str]) -> int:
    """Do a worker's part and print its events."""
    from device.sections import work

    for event in work(worker, words, kind=kind):
        if event.get("platform", kind) != kind:
            print(
                f"JAX finds no {kind.upper()} here; --dry needs none", file=sys.stderr
            )
            return 2
        print(json.dumps(event), flush=True)
    return 0


def _make_plan(topologies: str) -> int:
    from device.plans import make_plans
    from lostjax.train.devices.platform import settle_platform

    settle_platform()
    make_plans(topologies.split(","))
    return 0
