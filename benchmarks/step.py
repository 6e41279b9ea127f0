"""Time of a whole training step, as ratios to the dense model's.

    python benchmarks/step.py [--width 256] [--forms 'a;b'] [--repeat 8] [--json FILE]

The model is D256 (or D512) L6 V4096 on 16 rows of 256 tokens: forward, backward, AdamW,
as the trainer compiles it on one device. Every form runs in one process, in turn, and
the fastest of the repetitions counts. `in one piece` is a step without micro-batches,
whose head and loss take all positions at once. PyTorch's eager LLaMA with its AdamW
runs beside them where `torch` and `transformers` can be imported.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from timing import fastest_in_turn

from lostjax.data import Batch
from lostjax.nn import count_flops
from lostjax.steps import head as positions
from lostjax.steps.gradient import make_gradient
from lostjax.steps.guard import Guard
from lostjax.steps.step import make_train_step
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import build_model, place_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import init_state
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from lostjax.train.devices.mesh import make_mesh

VOCABULARY, ROWS, LENGTH = 4096, 16, 256
GUARD = Guard(patience=10)
"""The trainer's default."""
IN_ONE_PIECE = "dense, in one piece"


def make_forms(width: int) -> dict[str, ModelConfig]:
    """Make every form of the model of a width; ranks are a quarter of it."""
    dense = ModelConfig(
        d_model=width,
        n_layers=6,
        n_heads=width // 64,
        d_hidden=43 * width // 16,
        linear="dense",
        rank=width // 4,
        delta=0.04,
        remat="none",
    )
    change = dataclasses.replace
    return {
        "dense": dense,
        "dense, products kept": change(dense, remat="products"),
        "lost": change(dense, linear="lost"),
        "lost, bottleneck remat": change(dense, linear="lost", remat="bottleneck"),
        "lost, products kept": change(dense, linear="lost", remat="products"),
        "cola": change(dense, linear="cola"),
        "sltrain": change(dense, linear="sltrain", delta=0.03),
    }


def main() -> None:
    """Time every form and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256, help="d_model")
    parser.add_argument("--forms", default="", help="semicolons between; default all")
    parser.add_argument("--repeat", type=int, default=8, help="repetitions")
    parser.add_argument("--json", default="", help="also write the timings there")
    options = parser.parse_args()
    forms = make_forms(options.width)
    if options.forms:
        forms = {name: forms[name] for name in ("dense", *options.forms.split(";"))}
    steps: dict[str, Any] = {name: JaxStep(one) for name, one in forms.items()}
    with mock.patch.object(positions, "POSITIONS", ROWS * LENGTH):
        steps[IN_ONE_PIECE] = JaxStep(forms["dense"], micro_batches=1)
    seconds = {name: step.compile_seconds for name, step in steps.items()}
    eager = torch_step(forms["dense"])
    if eager is not None:
        steps["torch eager, dense"] = eager
    best = fastest_in_turn(steps, repeat=options.repeat)
    flops = {name: train_flops(config) for name, config in forms.items()}
    device = jax.devices()[0].device_kind
    print(f"{device}, width {options.width}, {ROWS} rows of {LENGTH} tokens")
    print(f"{'form':<26}{'tokens/s':>10}{'time':>8}{'FLOPs':>8}{'compiling, s':>14}")
    rows = []
    for name, fastest in best.items():
        row = {
            "form": name,
            "tokens_per_second": ROWS * LENGTH / fastest,
            "time_ratio": fastest / best["dense"],
            "compile_seconds": seconds.get(name, float("nan")),
            "flop_ratio": flops.get(name, flops["dense"]) / flops["dense"],
        }
        rows.append(row)
        print(
            f"{name:<26}{row['tokens_per_second']:>10.0f}{row['time_ratio']:>8.3f}"
            f"{row['flop_ratio']:>8.3f}{row['compile_seconds']:>14.1f}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


def train_flops(config: ModelConfig) -> int:
    """Count training FLOPs per token, attention and head included."""
    model = build_model(config, vocab_size=VOCABULARY)
    return count_flops(model, length=LENGTH).train


def random_batch() -> Batch:
    """Make rows of random tokens, one document each."""
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
    ones_BT = np.ones((ROWS, LENGTH), np.int32)
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=ones_BT.astype(np.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1, dtype=np.int32) - 1,
        example_B=np.arange(ROWS, dtype=np.int32),
        epoch_B=np.zeros(ROWS, np.int32),
    )


class JaxStep:
    """The trainer's step on one device, watched for stability or not, compiled."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        watch: bool = False,
        guard: Guard = GUARD,
        micro_batches: int | None = None,
    ) -> None:
        mesh = make_mesh("data:1")
        run = TrainConfig(batch_size=ROWS, data=DataConfig(seq_len=LENGTH))
        parts = micro_batches or count_micro_batches(run, mesh=mesh)
        model = place_model(
            build_model(config, vocab_size=VOCABULARY), config=config, mesh=mesh
        )
        tx, _ = build_optimizer(OptimConfig(), steps=1000)
        self._state = init_state(model, tx, mesh=mesh, key=jax.random.key(0))
        self._batch = jax.device_put(
            random_batch(), NamedSharding(mesh, PartitionSpec())
        )
        gradient = make_gradient(model, accumulate=parts, watch=watch)
        step = make_train_step(gradient, tx, guard=guard)
        began = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self._state, self._batch)
        self._step = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        """With tracing; nothing cached."""

    def __call__(self) -> object:
        """Do one more step and wait for it."""
        self._state, metrics = self._step(self._state, self._batch)
        return jax.block_until_ready(metrics)


def torch_step(dense: ModelConfig) -> Callable[[], object] | None:
    """Do the same in eager PyTorch with transformers' LLaMA, where installed."""
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=dense.d_model,
        intermediate_size=dense.d_hidden,
        num_hidden_layers=dense.n_layers,
        num_attention_heads=dense.n_heads,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = random_batch()
    tokens_BT = torch.tensor(batch.tokens_BT, dtype=torch.long)
    targets_N = torch.tensor(batch.targets_BT, dtype=torch.long).reshape(-1)

    def run() -> object:
        logits_NV = model(tokens_BT).logits.reshape(-1, VOCABULARY)
        loss = torch.nn.functional.cross_entropy(logits_NV, targets_N)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


if __name__ == "__main__":
    main()
