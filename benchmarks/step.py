"""Time of a whole training step, as ratios to the dense model's.

    python benchmarks/step.py [--repeat 8] [--json FILE]

The model is D256 L6 V4096 on 16 rows of 256 tokens: forward, backward, AdamW, as the
trainer compiles it on one device. Every form runs in one process, in turn, and the
fastest of the repetitions counts. PyTorch's eager LLaMA with its AdamW runs beside them
where `torch` and `transformers` can be imported.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable

import jax
import numpy as np
from timing import fastest_in_turn

from lostjax.data import Batch
from lostjax.nn import count_flops
from lostjax.train.config import ModelConfig, OptimConfig
from lostjax.train.mesh import make_mesh, place_batch
from lostjax.train.model import build_model
from lostjax.train.optimizer import build_optimizer
from lostjax.train.state import init_state
from lostjax.train.step import make_train_step

DENSE = ModelConfig(d_model=256, n_layers=6, d_hidden=688, linear="dense", remat="none")
VOCABULARY, ROWS, LENGTH = 4096, 16, 256
FORMS = {
    "dense": DENSE,
    "lost": dataclasses.replace(DENSE, linear="lost", rank=64, delta=0.04),
    "lost, bottleneck remat": dataclasses.replace(
        DENSE, linear="lost", rank=64, delta=0.04, remat="bottleneck"
    ),
    "lost, products kept": dataclasses.replace(
        DENSE, linear="lost", rank=64, delta=0.04, remat="products"
    ),
    "dense, products kept": dataclasses.replace(DENSE, remat="products"),
    "cola": dataclasses.replace(DENSE, linear="cola", rank=64),
    "sltrain": dataclasses.replace(DENSE, linear="sltrain", rank=64, delta=0.03),
}


def main() -> None:
    """Time every form and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=8, help="repetitions")
    parser.add_argument("--json", default="", help="also write the timings there")
    options = parser.parse_args()
    steps = {name: jax_step(config) for name, config in FORMS.items()}
    eager = torch_step()
    if eager is not None:
        steps["torch eager, dense"] = eager
    best = fastest_in_turn(steps, repeat=options.repeat)
    flops = {name: train_flops(config) for name, config in FORMS.items()}
    print(f"{jax.devices()[0].device_kind}, {ROWS} rows of {LENGTH} tokens")
    print(f"{'form':<26}{'tokens/s':>10}{'time':>8}{'FLOPs':>8}")
    rows = []
    for name, seconds in best.items():
        row = {
            "form": name,
            "tokens_per_second": ROWS * LENGTH / seconds,
            "time_ratio": seconds / best["dense"],
            "flop_ratio": flops.get(name, flops["dense"]) / flops["dense"],
        }
        rows.append(row)
        print(
            f"{name:<26}{row['tokens_per_second']:>10.0f}{row['time_ratio']:>8.3f}"
            f"{row['flop_ratio']:>8.3f}"
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


def jax_step(config: ModelConfig, *, watch: bool = False) -> Callable[[], object]:
    """Compile the trainer's step for one device, watched for stability or not."""
    mesh = make_mesh("data:1")
    model = build_model(config, vocab_size=VOCABULARY)
    tx, _ = build_optimizer(OptimConfig(), steps=1000)
    state = init_state(model, tx, mesh=mesh, key=jax.random.key(0))
    whole = random_batch()
    batch = place_batch(
        lambda rows: Batch(*(leaf[rows] for leaf in whole)), mesh=mesh, batch_size=ROWS
    )
    step = jax.jit(make_train_step(model, tx, watch=watch), donate_argnums=0)

    def run() -> object:
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    return run


def torch_step() -> Callable[[], object] | None:
    """Do the same in eager PyTorch with transformers' LLaMA, where installed."""
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=DENSE.d_model,
        intermediate_size=DENSE.d_hidden,
        num_hidden_layers=DENSE.n_layers,
        num_attention_heads=DENSE.n_heads,
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
