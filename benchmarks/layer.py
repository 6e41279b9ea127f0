"""Time of linear maps, forward and backward, as ratios to the dense one.

    python benchmarks/layer.py [--layers 60m,130m,350m,1b] [--rows 4096] [--json FILE]

For the MLP up matrix (d -> f) and a square one (d -> d) of each size: value, gradients
of all parameters and of the input. Every form runs in one process, in turn, and the
fastest of the repetitions counts, so that other work on the machine touches all alike.
`of FLOPs` is the time ratio over the ratio of FLOPs: 1 is all that the method can save.
PyTorch's eager dense layer runs beside them where `import torch` works.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from timing import fastest_in_turn

from lostjax.nn import Dense, LowRank, LowRankSparse, SLTrain
from lostjax.train.config.presets import get_preset

SIZES = {
    size: get_preset(f"lost_{size}").model for size in ("60m", "130m", "350m", "1b")
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """One form of one matrix, against the dense form of the same matrix."""

    layer: str
    form: str
    milliseconds: float
    time_ratio: float
    flop_ratio: float


class UnfusedLost(LowRankSparse):
    """LOST as its equation reads: two output products, scaled and added."""

    def products(self, x_PM: jax.Array, siblings: Any) -> tuple[jax.Array, ...]:
        """Apply each sibling by itself."""

        def product(w: Any) -> jax.Array:
            low_rank_PN = nn.silu(x_PM @ w.a_MR) @ w.b_RN
            sparse_PN = x_PM[:, w.kept_C] @ w.values_CN
            return w.gamma * low_rank_PN + (1 - w.gamma) * sparse_PN

        return tuple(product(weights) for weights in siblings)


def main() -> None:
    """Time the layers asked for and print one table."""
    options = parse_options()
    timings = []
    print(f"{jax.devices()[0].device_kind}, {options.rows} rows, forward and backward")
    print(f"{'layer':<24}{'form':<14}{'ms':>9}{'time':>8}{'FLOPs':>8}{'of FLOPs':>10}")
    for size in options.layers.split(","):
        model = SIZES[size]
        width, hidden, rank = model.d_model, model.d_hidden, model.rank
        for name, features in (("up", hidden), ("square", width)):
            layer = f"{size} {name} {width}x{features}"
            forms = make_forms(features, rank=rank, delta=options.delta)
            for timing in time_layer(layer, forms, width=width, options=options):
                timings.append(timing)
                print_row(timing)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                [dataclasses.asdict(timing) for timing in timings], file, indent=1
            )


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default=",".join(SIZES), help="sizes, by commas")
    parser.add_argument("--rows", type=int, default=4096, help="tokens in a step")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions")
    parser.add_argument("--delta", type=float, default=0.01, help="LOST's channels")
    parser.add_argument("--json", default="", help="also write the timings there")
    options = parser.parse_args()
    for size in options.layers.split(","):
        if size not in SIZES:
            parser.error(f"--layers: {size!r} is not among {', '.join(SIZES)}")
    return options


def make_forms(features: int, *, rank: int, delta: float) -> dict[str, Any]:
    """List the layers to compare; the first is the measure."""
    return {
        "dense": Dense(features),
        "lost": LowRankSparse(features, rank, delta=delta),
        "lost unfused": UnfusedLost(features, rank, delta=delta),
        "low rank": LowRank(features, rank),
        "sltrain": SLTrain(features, rank),
    }


def time_layer(
    layer: str, forms: dict[str, Any], *, width: int, options: argparse.Namespace
) -> Iterator[Timing]:
    """Time every form of one matrix, in turn."""
    features = forms["dense"].features
    steps = {name: jax_step(form, width, options.rows) for name, form in forms.items()}
    eager = torch_step(width, features, rows=options.rows)
    if eager is not None:
        steps["torch dense"] = eager
    best = fastest_in_turn(steps, repeat=options.repeat)
    dense_flops = forms["dense"].flops(width)
    for name, seconds in best.items():
        flops = forms[name].flops(width) if name in forms else dense_flops
        yield Timing(
            layer=layer,
            form=name,
            milliseconds=1e3 * seconds,
            time_ratio=seconds / best["dense"],
            flop_ratio=flops / dense_flops,
        )


def jax_step(form: Any, width: int, rows: int) -> Callable[[], object]:
    """Compile value and gradients of one layer on random rows."""
    key, key_x, key_y = jax.random.split(jax.random.key(0), 3)
    x_PM = jax.random.normal(key_x, (rows, width))
    weights_PN = jax.random.normal(key_y, (rows, form.features))
    variables = jax.jit(form.init)(key, x_PM[:1])

    def loss(params: Any, x_PM: jax.Array) -> jax.Array:
        y_PN = form.apply(variables | {"params": params}, x_PM)
        return jnp.vdot(y_PN, weights_PN)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(step(variables["params"], x_PM))


def torch_step(width: int, features: int, *, rows: int) -> Callable[[], object] | None:
    """Do the same in eager PyTorch, where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    layer = torch.nn.Linear(width, features, bias=False)
    x_PM = torch.randn(rows, width, requires_grad=True)
    weights_PN = torch.randn(rows, features)

    def step() -> object:
        layer.weight.grad = x_PM.grad = None
        loss = (layer(x_PM) * weights_PN).sum()
        loss.backward()
        return loss.item()

    return step


def print_row(timing: Timing) -> None:
    """Print one line of the table."""
    print(
        f"{timing.layer:<24}{timing.form:<14}{timing.milliseconds:>9.1f}"
        f"{timing.time_ratio:>8.3f}{timing.flop_ratio:>8.3f}"
        f"{timing.time_ratio / timing.flop_ratio:>10.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
