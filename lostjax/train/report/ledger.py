"""The ledger compares a model with the dense model of the same shape.

It counts parameters, bytes of parameters, gradients and optimiser state, activations
kept for the backward pass, and FLOPs. Activation bytes are those of the traced program,
before the compiler fuses any away: they are comparable, not measured.
"""

import dataclasses

import jax

from lostjax.nn import activation_bytes, count_flops, count_parameters
from lostjax.train.build.job import Job
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import build_model, xla_attention
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.programs import Compiled
from lostjax.train.build.state import abstract_state
from lostjax.train.devices.sharding import place_shapes, shard_bytes
from lostjax.train.report.contents import LedgerRow
from lostjax.trees import count_bytes


def build_ledger(job: Job, compiled: Compiled | None = None) -> list[LedgerRow]:
    """Count this run's bytes and FLOPs beside AdamW's on the dense model of its shape.

    Args:
      job: the run.
      compiled: its programs; if given, the compiler's temporary memory is a row.
    """
    config = job.config
    dense_config = dataclasses.replace(config.model, linear="dense")
    dense = build_model(dense_config, vocab_size=job.model.vocab_size)
    adamw = dataclasses.replace(config.optim, name="adamw")
    dense_tx, _ = build_optimizer(adamw, steps=config.steps)
    dense_state = abstract_state(dense, dense_tx, key=jax.random.key(0))
    states = [job.abstract, dense_state]
    length = config.data.seq_len
    rows = config.batch_size // count_micro_batches(config, mesh=job.mesh)
    counts = [count_parameters(model) for model in (job.model, dense)]
    flops = [count_flops(model, length=length) for model in (job.model, dense)]
    attend = xla_attention(job.mesh)
    kept = [
        activation_bytes(model.clone(attend=attend), batch_size=rows, length=length)
        for model in (job.model, dense)
    ]
    parameter_bytes = [count_bytes(state.params) for state in states]
    optimizer_bytes = [count_bytes(state.opt_state) for state in states]
    placed = [place_shapes(state, job.mesh) for state in states]
    device_bytes = [shard_bytes(state.opt_state) for state in placed]
    ledger = [
        LedgerRow("parameters", counts[0].total, counts[1].total, "count"),
        LedgerRow(
            "parameters outside embedding and head",
            counts[0].non_embedding,
            counts[1].non_embedding,
            "count",
        ),
        LedgerRow("parameter bytes", parameter_bytes[0], parameter_bytes[1]),
        LedgerRow("gradient bytes", parameter_bytes[0], parameter_bytes[1]),
        LedgerRow(
            f"optimiser state: {config.optim.name}, against AdamW",
            optimizer_bytes[0],
            optimizer_bytes[1],
        ),
        LedgerRow("optimiser state per device", device_bytes[0], device_bytes[1]),
        LedgerRow("activations kept for the backward pass", kept[0], kept[1]),
        LedgerRow("training FLOPs per token", flops[0].train, flops[1].train, "flops"),
    ]
    if job.abstract.memory is not None:
        memory_bytes = count_bytes(job.abstract.memory)
        ledger.append(LedgerRow("past outputs by row (SAF)", memory_bytes))
    if job.reference is not None:
        reference_bytes = count_bytes(job.reference.abstract)
        ledger.append(LedgerRow("reference that weighs tokens", reference_bytes))
    if compiled is not None and compiled.temporary_bytes is not None:
        name = "compiler's temporary memory, per device"
        ledger.append(LedgerRow(name, compiled.temporary_bytes))
    return ledger
