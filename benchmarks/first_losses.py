"""The first 20 losses of every optimiser and objective, to compare two commits.

    python benchmarks/first_losses.py --preset=smoke --out=before.json
    python benchmarks/first_losses.py --preset=smoke --against=before.json

Every variant runs by the real command line. Losses and gradient norms are compared bit
for bit, so both files must come from one machine and one version of jax.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from pathlib import Path

from lostjax.train.__main__ import main as train
from lostjax.train.config.presets import get_preset

STEPS = 20
MEMORY_BATCHES = 5
"""Batches of the short text that a memory of past outputs needs: rows come again."""

_FRUGAL = ["--optim=frugal", "--optim.frugal.update-gap=5"]
_SPLITS = {
    "rows": [],
    "columns": [],
    "coordinates": [],
    "blocks": ["--optim.frugal.block-order=mirror"],
    "svd": ["--optim.frugal.stagger=2", "--optim.frugal.on-refresh=reproject"],
    "orthonormal": [
        "--optim.frugal.state-free=sgd",
        "--optim.frugal.free-scale=0.5",
        "--optim.frugal.on-refresh=keep",
    ],
}

VARIANTS: dict[str, list[str]] = {
    "adamw": [],
    **{name: [f"--model.linear={name}"] for name in ("dense", "low_rank", "cola")},
    "sltrain": ["--model.linear=sltrain"],
    "bfloat16": ["--model.dtype=bfloat16"],
    "decay": ["--optim.weight-decay=0.1"],
    "independent_decay": ["--optim.weight-decay=1e-4", "--optim.independent-decay"],
    "base_width": ["--model.base-width={half}"],
    "qk_norm": ["--model.qk-norm"],
    "accumulate": ["--accumulate=4"],
    "watched": ["--stability.every=5"],
    "skip": ["--guard.spike=skip", "--guard.window=5", "--guard.fault=nan@7,spike@15"],
    "frugal": _FRUGAL,
    **{
        f"frugal_{name}": [*_FRUGAL, f"--optim.frugal.subspace={name}", *words]
        for name, words in _SPLITS.items()
        if name != "rows"
    },
    "frugal_full_state": [
        *_FRUGAL,
        "--optim.frugal.density=0.5",
        "--optim.full-state=embed|head|norm|/(a|b)$",
    ],
    "galore": ["--optim=galore", "--optim.frugal.update-gap=5"],
    **{name: [f"--optim={name}"] for name in ("muon", "sign_sgd", "schedule_free")},
    "log_partition": ["--objective.log-partition=1e-4"],
    "label_smoothing": ["--objective.label-smoothing=0.1"],
    "sam": ["--objective.sam-radius=0.05"],
    **{
        f"reweight_{name}": [
            f"--objective.reweight={name}",
            "--objective.reweight.temperature=0.7",
        ]
        for name in ("lin_upper", "quadratic", "extremes", "upper")
    },
    "saf": [
        "--objective.trajectory=saf",
        "--objective.trajectory.lag-epochs=1",
        "--objective.trajectory.top-k=8",
    ],
    "mesa": ["--objective.trajectory=mesa", "--objective.trajectory.decay=0.9"],
    "lagged": ["--objective.trajectory=lagged", "--objective.trajectory.lag-steps=5"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--mesh", default="data:1")
    parser.add_argument("--only", nargs="*", help="names of variants; default: all")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--against", help="JSON file to compare with")
    flags = parser.parse_args()
    before = json.loads(Path(flags.against).read_text()) if flags.against else {}
    found, different = {}, 0
    for name in flags.only or VARIANTS:
        found[name] = first_losses(name, preset=flags.preset, mesh=flags.mesh)
        verdict = "measured"
        if before:  # as text: NaN equals NaN
            same = json.dumps(before[name]) == json.dumps(found[name])
            different += not same
            verdict = "same" if same else "DIFFERENT"
        print(f"{flags.preset} {flags.mesh} {name}: {verdict}", flush=True)
        if flags.out:
            Path(flags.out).write_text(json.dumps(found, indent=1))
    return 1 if different else 0


def first_losses(name: str, *, preset: str, mesh: str) -> list[list[float]]:
    """Train a variant; returns (loss, gradient norm) of each step."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"--preset={preset}",
            f"--mesh={mesh}",
            f"--steps={STEPS}",
            "--eval-every=0",
            f"--run-dir={folder}/run",
            "--checkpoint-every=1000",
        ]
        if name == "saf":
            words += _short_text(Path(folder), preset)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            half = get_preset(preset).model.d_model // 2
            named = [word.replace("{half}", str(half)) for word in VARIANTS[name]]
            code = train([*words, *named])
        if code:
            raise SystemExit(f"{name}: exit code {code}\n{printed.getvalue()}")
        text = (Path(folder) / "run" / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
    steps = [[line["loss"], line["gradient_norm"]] for line in lines]
    return steps


def _short_text(folder: Path, preset: str) -> list[str]:
    """Write a text of which every row comes again within the run."""
    positions = 8 * 64 if preset == "smoke" else 16 * 128
    draw = random.Random(0)
    text = "".join(
        draw.choice("abcde fgh ijk\n") for _ in range(positions * MEMORY_BATCHES)
    )
    (folder / "text.txt").write_text(text)
    (folder / "heldout.txt").write_text(text[::-1])
    return [
        f"--data.source={folder}/text.txt",
        f"--data.heldout={folder}/heldout.txt",
        "--data.tokenizer=bytes",
    ]


if __name__ == "__main__":
    sys.exit(main())
