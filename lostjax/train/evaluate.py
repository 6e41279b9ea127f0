"""Compute held-out loss, perplexity and bits per byte.

    loss          = sum of nats / tokens               (every token and boundary once)
    perplexity    = exp(loss)
    bits_per_byte = sum of nats / (ln 2 x UTF-8 bytes of the text)

Bits per byte can be compared between tokenizers. For a uniform model over V tokens they
are log2(V) x tokens / bytes.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lostjax.data.rows.batches import EvalPlan
from lostjax.steps.score import ScoreStep, Sums
from lostjax.steps.step import EvalStep
from lostjax.train.build.job import Job
from lostjax.train.build.programs import Compiled
from lostjax.train.devices.sharding import place_batch
from lostjax.train.log.json_lines import read_evaluations, read_whole
from lostjax.typing import Batch, Variables


class Evaluation(NamedTuple):
    """The quality of a model's predictions of a text."""

    loss: float
    """Mean cross entropy per token, nats."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float
    """Bits per UTF-8 byte that an entropy coder with the model's predictions needs."""
    tokens: int
    """Number of predicted tokens, including boundaries."""


class Scores(NamedTuple):
    """An `Evaluation`, how often a model is right, and how well it knows that."""

    loss: float
    """Mean cross entropy per token, nats."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float
    """Bits per UTF-8 byte that an entropy coder with the model's predictions needs."""
    tokens: int
    """Number of predicted tokens, including boundaries."""
    accuracy: float
    """Share of the tokens that are the likeliest one."""
    top_k: int
    """k of `top_k_accuracy`."""
    top_k_accuracy: float
    """Share of the tokens that are among the k likeliest."""
    calibration_error: float
    """Expected calibration error over 15 bins of confidence, in [0, 1]."""


def _go_on() -> None:
    """Never end an evaluation early."""


def evaluate(
    step: EvalStep,
    variables: Variables,
    *,
    plan: EvalPlan,
    n_bytes: int,
    mesh: Mesh,
    check: Callable[[], None] = _go_on,
) -> Evaluation:
    """Evaluate a model on every row of a held-out text.

    Args:
      step: jitted `make_eval_step(model)`.
      variables: the model's variables.
      plan: the rows in order; the last batch is padded with rows of weight 0.
      n_bytes: UTF-8 bytes of the text, positive.
      mesh: the devices.
      check: called before each batch; an exception from it ends the evaluation.

    Returns:
      The evaluation over the whole text.
    """
    nats, tokens = map(
        float, _sum_batches(step, variables, plan=plan, mesh=mesh, check=check)
    )
    return _summarise(nats, tokens, n_bytes=n_bytes)


def score(
    step: ScoreStep, variables: Variables, *, plan: EvalPlan, top_k: int, mesh: Mesh
) -> Scores:
    """Score a model on every row of a text.

    Args:
      step: jitted `make_score_step(model, top_k=top_k)`.
      variables: the model's variables.
      plan: the rows in order.
      top_k: k of the top-k accuracy.
      mesh: the devices.

    Returns:
      The scores over the whole text.
    """
    sums = Sums(*_sum_batches(step, variables, plan=plan, mesh=mesh, check=_go_on))
    nats, tokens = float(sums.nats), float(sums.tokens)
    # The sums leave out tokens whose logits are NaN, as in a model that diverged.
    share = math.nan if math.isnan(nats) else 1 / tokens
    return Scores(
        *_summarise(nats, tokens, n_bytes=plan.n_bytes),
        accuracy=float(sums.first) * share,
        top_k=top_k,
        top_k_accuracy=float(sums.top_k) * share,
        calibration_error=float(np.abs(sums.gaps).sum()) * share,
    )


def _sum_batches(
    step: Callable[[Variables, Batch], tuple[Any, ...]],
    variables: Variables,
    *,
    plan: EvalPlan,
    mesh: Mesh,
    check: Callable[[], None],
) -> list[Any]:
    """Sum what a step returns over all batches."""
    sums: list[tuple[Any, ...]] = []
    for index in range(plan.n_batches):
        check()
        sums.append(step(variables, place_batch(plan, index, mesh=mesh)))
        # At most two batches in flight: with about thirty, CPU devices that share
        # threads deadlock.
        jax.block_until_ready(sums[-2:-1])
    # Summed in float64 on the host, because a float32 sum over a million tokens loses
    # digits.
    parts = zip(*jax.device_get(sums), strict=True)
    return [np.sum(np.asarray(part, np.float64), axis=0) for part in parts]


def _summarise(nats: float, tokens: float, *, n_bytes: int) -> Evaluation:
    loss = nats / tokens
    return Evaluation(
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / (math.log(2) * n_bytes),
        tokens=round(tokens),
    )


def evaluate_heldout(
    job: Job,
    compiled: Compiled,
    variables: Variables,
    *,
    check: Callable[[], None] = _go_on,
) -> Evaluation:
    """Evaluate variables of a run's model on its held-out text; see `evaluate`."""
    return evaluate(
        compiled.evaluate,
        variables,
        plan=job.data.heldout,
        n_bytes=job.data.heldout_bytes,
        mesh=job.mesh,
        check=check,
    )


def find_evaluation(run_dir: Path, *, step: int) -> Evaluation | None:
    """Read a run's logged evaluation at a step; None if there is none."""
    names = {"eval_loss", "eval_perplexity", "eval_bits_per_byte", "eval_tokens"}
    for line in read_whole(read_evaluations, run_dir):
        # A line of an earlier version, without a hash, may lack a name.
        is_whole = names <= set(line) and math.isfinite(line["eval_tokens"])
        if line["step"] == step and is_whole:
            return Evaluation(
                loss=float(line["eval_loss"]),
                perplexity=float(line["eval_perplexity"]),
                bits_per_byte=float(line["eval_bits_per_byte"]),
                tokens=int(line["eval_tokens"]),
            )
    return None
