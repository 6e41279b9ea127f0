"""Time and memory of one optimiser update, as ratios to optax's AdamW.

    python benchmarks/optimizer.py [--sizes 60m,130m] [--repeat 8] [--json FILE]

Parameters are those of the papers' dense LLaMA (vocabulary 32000, float32), with layers
stacked as the trainer stacks them; `optax.contrib.galore`, which does not project
stacks, gets them one by one. Every form runs in turn with AdamW, the two alone in
memory: update and application, parameters and state donated; the fastest of the
repetitions counts. A step that computes singular vectors is timed apart from one that
does not, and `peak` is what the compiler plans: arguments, results and temporaries of
one update.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import galore, muon
from timing import fastest_in_turn

from lostjax import optim
from lostjax.train.build.model import build_model
from lostjax.train.build.state import abstract_variables
from lostjax.train.config.presets import get_preset

RATE, GAP = 1e-3, 200


def galore_ours() -> optax.GradientTransformation:
    """GaLore by the parts of FRUGAL."""
    return optim.frugal(
        RATE,
        subspace=optim.gradient_svd(),
        state_free=optax.set_to_zero(),
        on_refresh=optim.KEEP,
    )


BASE = optax.adamw(RATE, weight_decay=0.0)

FORMS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "frugal, rows": lambda: optim.frugal(RATE),
    "frugal, columns": lambda: optim.frugal(RATE, subspace=optim.columns()),
    "frugal, blocks": lambda: optim.frugal(RATE, subspace=optim.blocks()),
    "frugal, coordinates": lambda: optim.frugal(RATE, subspace=optim.coordinates()),
    "frugal, density 0": lambda: optim.frugal(RATE, density=0.0),
    "frugal, svd": lambda: optim.frugal(RATE, subspace=optim.gradient_svd()),
    "galore": galore_ours,
    "optax.contrib.muon": lambda: muon(
        RATE, muon_weight_dimension_numbers=optim.find_matrices
    ),
    "optax.sign_sgd": lambda: optax.sign_sgd(RATE),
}
WITH_SVD = ("frugal, svd", "galore", "optax.contrib.galore")


def main() -> None:
    """Time every form on every size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="60m,130m", help="of 60m, 130m, 350m")
    parser.add_argument("--repeat", type=int, default=8, help="repetitions")
    parser.add_argument("--svd", action="store_true", help="time refreshes too: slow")
    parser.add_argument("--json", default="", help="also write the timings there")
    options = parser.parse_args()
    rows = []
    for size in options.sizes.split(","):
        rows += time_size(size, repeat=options.repeat, refreshes=options.svd)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


def time_size(size: str, *, repeat: int, refreshes: bool) -> list[dict[str, Any]]:
    """Time every form on one size and print its table."""
    params = make_params(size)
    rank = round(0.25 * get_preset(f"llama_{size}").model.d_model)
    print(f"\n{size} on {jax.devices()[0].device_kind}")
    print(f"{'form':<24}{'time':>8}{'state':>8}{'peak':>8}")
    rows = []
    for name, form in FORMS.items():
        rows += time_form(
            name, form(), params, params, repeat=repeat, refreshes=refreshes
        )
    rows += time_form(
        "optax.contrib.galore",
        galore(RATE, rank=rank, update_proj_gap=GAP, weight_dimension_numbers=None),
        unstack(params),
        params,
        repeat=repeat,
        refreshes=refreshes,
    )
    return [{"size": size} | row for row in rows]


def time_form(
    name: str,
    tx: optax.GradientTransformation,
    params: Any,
    base_params: Any,
    *,
    repeat: int,
    refreshes: bool,
) -> list[dict[str, Any]]:
    """Time one form in turn with AdamW and print its rows."""
    base, step = Step(BASE, base_params), Step(tx, params)
    both = {"base": partial(base.run, count=1), "form": partial(step.run, count=1)}
    best = fastest_in_turn(both, repeat=repeat)
    row = {
        "form": name,
        "milliseconds": 1e3 * best["form"],
        "time_ratio": best["form"] / best["base"],
        "state_ratio": step.state_bytes / base.state_bytes,
        "peak_ratio": step.peak_bytes / base.peak_bytes,
    }
    print(
        f"{name:<24}{row['time_ratio']:>8.3f}{row['state_ratio']:>8.3f}"
        f"{row['peak_ratio']:>8.3f}",
        flush=True,
    )
    if not refreshes or name not in WITH_SVD:
        return [row]
    spike = fastest_in_turn({name: partial(step.run, count=0)}, repeat=1)[name]
    ratio = spike / best["base"]
    print(f"{name + ', refresh':<24}{ratio:>8.1f}", flush=True)
    return [row, {"form": f"{name}, refresh", "time_ratio": ratio}]


def make_params(size: str) -> dict[str, Any]:
    """Make parameters of a dense preset."""
    model = build_model(get_preset(f"llama_{size}").model, vocab_size=32_000)
    shapes = abstract_variables(model)["params"]
    rng = np.random.default_rng(0)
    made: dict[str, Any] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.02, leaf.shape), leaf.dtype), shapes
    )
    return made


def unstack(params: dict[str, Any]) -> dict[str, Any]:
    """Give each layer's matrices leaves of their own; keep the vocabulary from SVDs."""
    flat = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if leaf.ndim == 3:
            flat |= {f"{name}/{i}": leaf[i] for i in range(len(leaf))}
        else:  # a second leading axis: 3-D leaves get full state
            flat[name] = leaf[None]
    return flat


class Step:
    """One optimiser's update, compiled, with its state."""

    def __init__(self, tx: optax.GradientTransformation, params: Any) -> None:
        self.params = jax.tree.map(jnp.copy, params)
        self.grads = jax.tree.map(lambda leaf: 1e-3 * jnp.cos(1e3 * leaf), params)
        self.state = jax.jit(tx.init)(self.params)

        def step(params: Any, state: Any, grads: Any, count: jax.Array) -> Any:
            # At count 0 a subspace is chosen; at any other it is not.
            if optax.tree.get_all_with_path(state, "count"):
                state = optax.tree.set(state, count=count)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        arguments = (self.params, self.state, self.grads, jnp.int32(1))
        self.compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
        memory = self.compiled.memory_analysis()
        self.peak_bytes = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        self.state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))

    def run(self, *, count: int) -> None:
        """Update once."""
        self.params, self.state = self.compiled(
            self.params, self.state, self.grads, jnp.int32(count)
        )
        jax.block_until_ready(self.params)


if __name__ == "__main__":
    main()
