"""Bytes of an optimiser's state on each of eight devices, counted on live arrays.

    python benchmarks/state_bytes.py

A weight is sharded over a mesh of eight devices of the CPU; `init` runs eagerly, as
users call it. `max` is the fullest device, `Adam` is `optax.scale_by_adam`. Rows of
rollfast appear if it is installed (`pip install rollfast`, Python 3.12 or newer).
"""

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding

from lostjax import optim

WEIGHTS = {
    "(512, 16) by rows": ((512, 16), jax.P("fsdp")),
    "(2048, 16) by rows": ((2048, 16), jax.P("fsdp")),
    "(4096, 16) by rows": ((4096, 16), jax.P("fsdp")),
    "(1000, 16) by rows": ((1000, 16), jax.P("fsdp")),
    "(1024, 2736) by rows": ((1024, 2736), jax.P("fsdp")),
    "(1024, 2736) by columns": ((1024, 2736), jax.P(None, "fsdp")),
}


def forms() -> Iterator[tuple[str, Callable[[], optax.GradientTransformation]]]:
    """Return what is counted, by name."""
    yield "optax Adam", optax.scale_by_adam
    for subspace in (
        optim.rows,
        optim.columns,
        optim.coordinates,
        optim.random_orthonormal,
        optim.gradient_svd,
    ):
        name = f"FRUGAL 0.25, {subspace.__name__}"
        yield name, lambda s=subspace: optim.scale_by_frugal(subspace=s())
    yield "optax GaLore, rank 4", lambda: optax.contrib.scale_by_galore(rank=4)
    if importlib.util.find_spec("rollfast"):
        import rollfast

        yield "rollfast adamw8", lambda: rollfast.adamw8(1e-3)
        yield "rollfast Muon", lambda: rollfast.muon(1e-3)


def most_bytes(state: Any) -> int:
    """Sum the bytes of a state on the fullest device."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def count(make: Callable[[], Any], name: str, mesh: jax.sharding.Mesh) -> str:
    shape, spec = WEIGHTS[name]
    params = {"w": jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))}
    try:
        with jax.set_mesh(mesh):
            return f"{most_bytes(make().init(params)):,}"
    except Exception as error:  # of others: their sharding errors are rows of the table
        return type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
        print(f"\n## Mesh with {kind.name.lower()} axes\n")
        print("| optimiser |", " | ".join(WEIGHTS), "|")
        print("| --- |", " | ".join("---:" for _ in WEIGHTS), "|")
        for name, make in forms():
            cells = [count(make, weight, mesh) for weight in WEIGHTS]
            print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
