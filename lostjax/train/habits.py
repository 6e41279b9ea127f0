"""Flags that people type out of habit, and what they are called here."""

from collections.abc import Collection

from lostjax.errors import nearest_hint

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
