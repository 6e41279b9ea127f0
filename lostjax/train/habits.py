"""Flags that people type out of habit, and what they are called here."""

import os
import shlex
from collections.abc import Collection

from lostjax.errors import nearest_hint
from lostjax.train.config.presets import PRESETS

HABITS = {
    "lr": "optim.learning-rate",
    "wd": "optim.weight-decay",
    "decay": "optim.weight-decay",
    "optimizer": "optim.name",
    "optimiser": "optim.name",
    "opt": "optim.name",
    "grad-clip": "optim.clip",
    "max-grad-norm": "optim.clip",
    "warmup-steps": "optim.warmup",
    "lr-schedule": "optim.schedule",
    "lr-scheduler": "optim.schedule",
    "lr-scheduler-type": "optim.schedule",
    "scheduler": "optim.schedule",
    "cooldown": "optim.decay-fraction",
    "pretrained": "init-from",
    "finetune": "init-from",
    "load": "init-from",
    "epochs": "steps",
    "num-train-epochs": "steps",
    "max-steps": "steps",
    "num-steps": "steps",
    "iterations": "steps",
    "iters": "steps",
    "batch": "batch-size",
    "bs": "batch-size",
    "per-device-train-batch-size": "batch-size",
    "grad-accum": "accumulate",
    "gradient-accumulation-steps": "accumulate",
    "gpus": "mesh",
    "gpu": "mesh",
    "num-gpus": "mesh",
    "tpus": "mesh",
    "devices": "mesh",
    "device": "mesh",
    "dataset": "data.source",
    "data": "data.source",
    "data-path": "data.source",
    "text": "data.source",
    "corpus": "data.source",
    "vocab-size": "data.tokenizer",
    "seq-length": "data.seq-len",
    "context": "data.seq-len",
    "context-length": "data.seq-len",
    "block-size": "data.seq-len",
    "max-length": "data.seq-len",
    "model": "preset",
    "size": "preset",
    "arch": "preset",
    "layers": "model.n-layers",
    "heads": "model.n-heads",
    "width": "model.d-model",
    "hidden-size": "model.d-model",
    "precision": "model.dtype",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "output-dir": "out",
    "out-dir": "out",
    "output": "out",
    "out": "run-dir",
    "save-dir": "out",
    "log-dir": "out",
    "logdir": "out",
    "save-every": "checkpoint-every",
    "save-steps": "checkpoint-every",
    "eval-steps": "eval-every",
    "eval-interval": "eval-every",
    "resume-from-checkpoint": "resume",
    "checkpoint": "resume",
    "max-tokens": "tokens",
    "max-new-tokens": "tokens",
    "length": "tokens",
}
"""Names that people know from other programs, and the flags that do the same here."""


def suggest_flag(name: str, known: Collection[str]) -> str:
    """Suggest the flag that an unknown one was probably meant to be.

    Args:
      name: the unknown flag, with its dashes.
      known: the flags that exist, with theirs.

    Returns:
      `; did you mean --optim.learning-rate?`, or nothing if no flag is near.
    """
    bare = name.lstrip("-")
    ends = [flag for flag in known if flag.endswith(f".{bare}")]
    habit = HABITS.get(bare, "")
    if f"--{habit}" not in known:  # some programs write to --out, some to --run-dir
        habit = HABITS.get(habit, habit)
    meant = f"--{habit}"
    if meant not in known and len(ends) == 1:
        meant = ends[0]
    if meant in known:
        return f"; did you mean {meant}?"
    # Without their dashes, which would make any two flags alike.
    return nearest_hint(bare, [flag.lstrip("-") for flag in known], prefix="--")


def suggest_for_word(word: str, known: Collection[str]) -> str:
    """Suggest the flag that a word without one was probably meant for.

    Args:
      word: a word of the command line that is no flag.
      known: the flags that exist, with their dashes.

    Returns:
      `; did you mean --data.source=letters?`, or nothing if no flag suggests itself.
    """
    name, equals, value = word.lstrip("-").partition("=")
    is_run = word == "latest" or os.path.exists(os.path.join(word, "config.json"))
    candidates = {
        f"--{name}": value if equals else None,
        "--resume": word if is_run else None,
        "--config": word if word.endswith((".yaml", ".yml")) else None,
        "--preset": word if word in PRESETS else None,
        "--data.source": word if _names_text(word) else None,
        "--prompt": word,
    }
    for flag, meant in candidates.items():
        if meant is not None and flag in known:
            return f"; did you mean {flag}={shlex.quote(meant)}?"
    return ""


def _names_text(word: str) -> bool:
    """Return whether a word is a file, a directory or a glob, or looks like a text."""
    endings = (".txt", ".jsonl", ".npy", ".bin")
    named = word == "sotu" or word.startswith(("sotu:", "tfds:"))
    return named or "*" in word or word.endswith(endings) or os.path.exists(word)
