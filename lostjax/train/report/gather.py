"""Gather the contents of a finished run's report from its directory and state."""

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import score_text
from lostjax.data import Data, TokenFiles
from lostjax.data.cache import cached, default_cache_dir, hash_parts
from lostjax.data.rows.stream import Rows, join_streams
from lostjax.errors import DataError
from lostjax.nn import (
    Transformer,
    count_parameters,
    sample_tokens,
)
from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.programs import Compiled
from lostjax.train.config.schema import TrainConfig
from lostjax.train.keep.commands import read_commands
from lostjax.train.log.json_lines import read_evaluations, read_metrics, read_whole
from lostjax.train.log.readings import read_stability
from lostjax.train.report.contents import Report, Sample, Timings
from lostjax.train.report.ledger import build_ledger
from lostjax.view.numbers import format_bytes

SAMPLE_TOKENS = 120
BASELINE_BYTES = 50_000_000
"""Largest training text that xz and n-grams are tried on."""


def summarise(
    job: Job, compiled: Compiled, state: TrainState, *, timings: Timings
) -> Report:
    """Gather the report of a finished run.

    Args:
      job: the run.
      compiled: its programs, which know the compiler's temporary memory.
      state: its final state.
      timings: its durations.

    Returns:
      The report's contents.
    """
    metrics = read_whole(read_metrics, job.directory)
    if len(metrics) < job.config.steps:  # it was said when they were lost
        print(
            f"the report counts the tokens of {len(metrics)} of {job.config.steps} "
            "steps: lines of metrics are missing",
            file=sys.stderr,
        )
    tokens = (line.get("tokens", 0) for line in metrics)
    norms = {
        int(x["step"]): x["gradient_norm"] for x in metrics if "gradient_norm" in x
    }
    return Report(
        title=describe_model(job.config, job.model),
        command="\n".join(read_commands(job.directory)),
        configuration=dataclasses.asdict(job.config),
        metrics=metrics,
        evaluations=read_whole(read_evaluations, job.directory),
        stability=read_stability(
            job.directory,
            optim=job.config.optim,
            gradient_norms=norms,
        ),
        parameters=count_parameters(job.model).total,
        tokens_seen=round(sum(filter(math.isfinite, tokens))),
        ledger=build_ledger(job, compiled),
        baselines=measure_baselines(job.data, cache_dir=job.config.data.cache_dir),
        sample=draw_sample(job, state),
        text=describe_text(job),
        environment=describe_environment(job),
        timings=timings,
    )


def describe_model(config: TrainConfig, model: Transformer) -> str:
    """Describe a run's model in a line."""
    shape = f"{model.n_layers} layers of width {model.d_model}"
    origin = ""
    if config.init_from is not None:
        origin = f", from step {config.init_step} of {config.init_from}"
    return f"{config.preset}: {config.model.linear}, {shape}{origin}"


def measure_baselines(data: Data, *, cache_dir: str | None) -> dict[str, float]:
    """Measure the bits per byte of compressors and n-grams on the held-out text.

    They take seconds, so they are kept in the cache under the text's hash. Token files
    hold no text, and a text above `BASELINE_BYTES` would take minutes: neither has
    baselines. A text that is gone, or changed, has none either, and a line on standard
    error says so.

    Args:
      data: the data of the run.
      cache_dir: directory of the cache; None for the default.

    Returns:
      Bits per byte by method.
    """
    parts = (*data.train.sources, *data.heldout.sources)
    tokens_only = any(
        isinstance(part.documents, TokenFiles) for part in data.corpus.parts
    )
    if tokens_only or data.train_bytes > BASELINE_BYTES:
        return {}
    root = Path(cache_dir or default_cache_dir())
    key = hash_parts(*(rows.content_hash for rows in parts))
    try:
        path = cached(root / "baselines" / f"{key}.json", partial(_score, data))
    except DataError as error:  # the text is gone or another one: the run is finished
        print(f"the report has no text baselines: {error}", file=sys.stderr)
        return {}
    baselines: dict[str, float] = json.loads(path.read_text())
    return baselines


def _score(data: Data, path: Path) -> None:
    print("measuring text baselines, once for this text: xz and n-grams", flush=True)
    found = score_text(
        list(data.corpus.train),
        list(data.corpus.heldout),
        train_tokens=join_streams(data.train.sources),
        heldout_tokens=join_streams(data.heldout.sources),
        vocab_size=data.vocab_size,
    )
    data.corpus.train.check_unchanged()  # the entry is named after the text's hash
    data.corpus.heldout.check_unchanged()
    baselines = {
        "xz -9": found.xz,
        "xz -9, given the training text": found.xz_given_train,
        "Kneser-Ney bigram": found.bigram,
        "trigram on that bigram": found.trigram_on_bigram,
        "Kneser-Ney trigram": found.trigram,
    }
    path.write_text(json.dumps(baselines, indent=1) + "\n")


def draw_sample(job: Job, state: TrainState) -> Sample:
    """Sample a continuation of the configuration's prompt, on one device."""
    tokenizer, prompt = job.data.tokenizer, job.config.sample_prompt
    variables = jax.device_get(evaluation_variables(state))
    ids = [tokenizer.eos_id, *tokenizer.encode_batch([prompt])[0].tolist()]
    tokens_BT = sample_tokens(
        job.model,
        variables,
        prompt_BT=jnp.asarray([ids], jnp.int32),
        n_tokens=SAMPLE_TOKENS,
        key=jax.random.key(job.config.seed),
        temperature=0.8,
    )
    return Sample(prompt, tokenizer.decode(np.asarray(tokens_BT[0, len(ids) :])))


def describe_text(job: Job) -> dict[str, object]:
    """Describe the text of a run, and how much of it was held out."""
    data = job.data

    def count(sources: Sequence[Rows]) -> str:
        documents = sum(rows.n_documents for rows in sources)
        size = format_bytes(sum(rows.n_bytes for rows in sources))
        return f"{documents:,} document{'s' * (documents != 1)}, {size}"

    return {
        "source": job.config.data.source,
        "trained on": count(data.train.sources),
        "held out": count(data.heldout.sources),
    }


def describe_environment(job: Job) -> dict[str, object]:
    """Describe the machine and the libraries of a run."""
    device = job.mesh.devices.flat[0]
    shape = ", ".join(f"{axis} {size}" for axis, size in job.mesh.shape.items())
    libraries = ("lostjax", "jax", "flax", "optax", "orbax-checkpoint")
    return {
        "devices": f"{job.mesh.size} x {device.device_kind} ({shape})",
        "processes": jax.process_count(),
        "host": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "Python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
