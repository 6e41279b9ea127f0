"""All that a run came to and that may not depend on what happened to it."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from lostjax.train.log.json_lines import CLOCK_FIELDS, read_evaluations, read_metrics


def read_outcome(directory, *, steps):
    """Read a finished run's metrics, evaluations, files and the bits of its state."""
    lines = {
        "metrics": read_metrics(directory),
        "evaluations": read_evaluations(directory),
    }
    for name, rows in lines.items():
        lines[name] = [
            {k: v for k, v in row.items() if k not in CLOCK_FIELDS} for row in rows
        ]
    files = {
        str(path.relative_to(directory))
        for path in (*directory.iterdir(), *directory.glob("checkpoints/*"))
    }
    return lines | {"files": files, "arrays": _stored_bits(directory, steps)}


def _stored_bits(directory, steps):
    bits = {}
    for item in ("model", "progress"):
        path = directory / "checkpoints" / str(steps) / item
        reader = ocp.PyTreeCheckpointer()
        shapes = reader.metadata(path.absolute()).item_metadata.tree
        whole = ocp.RestoreArgs(restore_type=np.ndarray)  # by however many processes
        wanted = jax.tree.map(lambda _, whole=whole: whole, shapes)
        tree = reader.restore(path.absolute(), restore_args=wanted)
        for key, leaf in jax.tree_util.tree_leaves_with_path(tree):
            bits[item + jax.tree_util.keystr(key)] = np.asarray(leaf).tobytes()
    return bits
