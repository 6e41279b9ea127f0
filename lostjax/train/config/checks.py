"""Refuse wrong configurations before any work is done.

The checks need neither devices nor data. Error messages name the flag, the value, and
the allowed values.
"""

import importlib.util
import math
import re
from collections.abc import Callable

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.steps.faults import parse_faults
from lostjax.train.config.fields import flag_name, get_field
from lostjax.train.config.schema import (
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from lostjax.train.config.stretches import list_stretches
from lostjax.train.config.widths import at_width

_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "init_step": 1,
    "eval_every": 0,
    "checkpoint_every": 1,
    "keep": 1,
    "model.d_model": 2,
    "model.n_layers": 1,
    "model.n_heads": 1,
    "model.d_hidden": 1,
    "model.channel_groups": 1,
    "model.base_width": 0,
    "data.seq_len": 2,
    "stability.every": 0,
    "guard.patience": 0,
    "guard.window": 2,
    "hosts.wait": 1,
    "optim.frugal.update_gap": 1,
    "optim.frugal.stagger": 1,
    "objective.token_weights.step": 1,
    "objective.trajectory.lag_epochs": 1,
    "objective.trajectory.top_k": 1,
    "objective.trajectory.lag_steps": 1,
}

LARGEST = 2**31 - 1
"""Largest integer except for the seed: steps, rows and sizes are int32 on devices."""

_MOST = {"optim.frugal.stagger": 1024, "hosts.wait": 7 * 24 * 3600}
"""Smaller limits: of objects that are built one by one, and of a wait in seconds."""

_RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "must lie in [0, 1]": (
        lambda x: 0 <= x <= 1,
        (
            "model.delta",
            "model.gamma",
            "optim.final_fraction",
            "optim.frugal.density",
            "objective.reweight.warmup",
            "objective.token_weights.min_weight",
        ),
    ),
    "must lie in [0, 1)": (
        lambda x: 0 <= x < 1,
        (
            "optim.warmup",
            "optim.b1",
            "optim.b2",
            "objective.label_smoothing",
            "objective.trajectory.decay",
        ),
    ),
    "must lie in (0, 1]": (lambda x: 0 < x <= 1, ("optim.decay_fraction",)),
    "must be 0 or positive": (
        lambda x: 0 <= x < math.inf,
        (
            "optim.weight_decay",
            "optim.clip",
            "optim.frugal.free_scale",
            "objective.log_partition",
            "objective.sam_radius",
            "objective.token_weights.alpha",
            "objective.trajectory.weight",
            "objective.trajectory.start",
        ),
    ),
    "must be positive": (
        lambda x: 0 < x < math.inf,
        (
            "optim.learning_rate",
            "optim.eps",
            "guard.sigma",
        ),
    ),
}
"""Message -> (test of a value, dotted fields that must pass it)."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")


def check_config(config: TrainConfig) -> None:
    """Refuse a configuration that cannot be run.

    Raises:
      ConfigError: if a value is out of range or two values contradict each other; the
        message names the flag, the value, and the allowed values.
    """
    _check_ranges(config)
    check_seed(config.seed)
    if not _PLAIN_NAME.fullmatch(config.preset):  # it names the run's directory
        raise ConfigError(
            f"--preset={config.preset[:80]!r}: must be a plain name of at most 60 "
            "letters, digits, '_', '-' and '.', and must not begin with '.' or '-'"
        )
    if not config.objective.reweight.temperature > 0:
        raise ConfigError(
            "--objective.reweight.temperature="
            f"{config.objective.reweight.temperature}: must be positive (inf: all rows "
            "have equal weight)"
        )
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"--accumulate={config.accumulate}: must divide --batch-size="
            f"{config.batch_size}"
        )
    if config.batch_size * config.data.seq_len > LARGEST:
        raise ConfigError(
            f"--batch-size={config.batch_size}: with --data.seq-len="
            f"{config.data.seq_len} a step has more than {LARGEST} tokens"
        )
    if config.init_step is not None and config.init_from is None:
        raise ConfigError(
            f"--init-step={config.init_step}: needs --init-from=RUN, the run whose "
            "checkpoint it is"
        )
    if config.optim.keep_zeros and config.init_from is None:
        raise ConfigError(
            "--optim.keep-zeros: needs --init-from=RUN, the run whose zeros are kept; "
            "a new run would never train what it initialises with zero"
        )
    _check_optim(config.optim)
    _check_schedule(config.optim, steps=config.steps)
    _check_model(config.model)
    if config.model.base_width:
        _check_base_width(config)
    _check_trajectory(config)
    _check_pairs(config.objective)
    parse_faults(config.guard.fault)
    if config.guard.spike == "rollback" and not config.guard.patience:
        raise ConfigError(
            "--guard.patience=0: must be at least 1 with --guard.spike=rollback, "
            "because a run whose loss spikes after every rollback would never end"
        )
    if config.profile is not None:
        parse_profile(config.profile, steps=config.steps)
    if config.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"--wandb={config.wandb}: wandb is not installed; "
            "pip install 'lostjax[wandb]', or omit the flag"
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that is not an unsigned 32-bit integer.

    Raises:
      ConfigError: if the seed is not in [0, 2^32).
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"--seed={seed}: must lie in [0, 2^32)")


def _check_ranges(config: TrainConfig) -> None:
    """Refuse numbers that are out of range on their own."""
    for name, low in _LEAST.items():
        value = get_field(config, name)
        if value is None:
            continue
        if value < low:
            raise ConfigError(f"{flag_name(name)}={value}: must be at least {low}")
        most = _MOST.get(name, LARGEST)
        if value > most:
            raise ConfigError(f"{flag_name(name)}={value}: must be at most {most}")
    for words, (allowed, names) in _RANGES.items():
        for name in names:
            value = get_field(config, name)
            if not allowed(value):
                raise ConfigError(f"{flag_name(name)}={value}: {words}")


def _check_schedule(optim: OptimConfig, *, steps: int) -> None:
    """Refuse a schedule whose parts do not fit into its steps."""
    if optim.schedule == "wsd" and optim.name == "schedule_free":
        raise ConfigError(
            "--optim.schedule=wsd: not with --optim=schedule_free, which averages "
            "instead of decaying the learning rate"
        )
    for stretch in list_stretches(optim, steps=steps):
        if stretch.schedule != "wsd":
            continue
        if optim.warmup + stretch.decay_fraction > 1:
            raise ConfigError(
                f"--optim.decay-fraction={stretch.decay_fraction}: with --optim.warmup="
                f"{optim.warmup} it is more than all steps"
            )


def _check_optim(optim: OptimConfig) -> None:
    if optim.name == "galore" and optim.frugal.density == 0:
        raise ConfigError(
            "--optim.frugal.density=0: must be positive with --optim=galore, which "
            "would otherwise update no matrix"
        )
    if optim.name == "schedule_free" and optim.b1 == 0:
        raise ConfigError(
            "--optim.b1=0: must be positive with --optim=schedule_free, because "
            "it weights the average"
        )
    if optim.keep_zeros and optim.name == "schedule_free":
        raise ConfigError(
            "--optim.keep-zeros: not with --optim=schedule_free, which trains and "
            "evaluates different parameters"
        )
    if optim.full_state is not None:
        try:
            re.compile(optim.full_state)
        except re.error as error:
            raise ConfigError(
                f"--optim.full-state={optim.full_state}: not a regular expression: "
                f"{error}"
            ) from None


def _check_model(model: ModelConfig) -> None:
    if model.d_model % (2 * model.n_heads):
        raise ConfigError(
            f"--model.n-heads={model.n_heads}: must divide --model.d-model="
            f"{model.d_model} into even head widths (rotary embeddings rotate pairs)"
        )
    narrowest = min(model.d_model, model.d_hidden)
    if model.linear != "dense" and not 1 <= model.rank <= narrowest:
        raise ConfigError(
            f"--model.rank={model.rank}: must lie in [1, {narrowest}], the smaller "
            f"of --model.d-model={model.d_model} and --model.d-hidden={model.d_hidden}"
        )
    if model.product != "xla" and model.linear in ("dense", "sltrain"):
        raise ConfigError(
            f"--model.product={model.product}: not with --model.linear={model.linear}; "
            "the kernels multiply narrow matrices (lost, cola, low_rank)"
        )
    if model.linear == "lost" and model.rank % model.channel_groups:
        raise ConfigError(
            f"--model.channel-groups={model.channel_groups}: must divide --model.rank="
            f"{model.rank}, which is divided into the same groups"
        )


def _check_base_width(config: TrainConfig) -> None:
    """Refuse muP if its rule for Adam's updates of matrices does not apply."""
    flag = f"--model.base-width={config.model.base_width}"
    if config.model.linear == "sltrain":
        raise ConfigError(
            f"{flag}: not with --model.linear=sltrain, whose factor alpha / rank "
            "scales with width by another rule"
        )
    if config.optim.name in ("muon", "galore"):
        raise ConfigError(
            f"{flag}: not with --optim={config.optim.name}, because the entries of its "
            "updates are not of size one; those of adamw, frugal, sign_sgd and "
            "schedule_free are"
        )
    try:
        at_width(config.model, config.model.base_width)
    except ConfigError as error:
        raise ConfigError(f"--model.base-width: {error}") from None


def _check_trajectory(config: TrainConfig) -> None:
    objective = config.objective
    temperature = objective.trajectory.temperature
    if not 0 < temperature < math.inf:
        raise ConfigError(
            f"--objective.trajectory.temperature={temperature}: must be positive"
        )
    start, end = objective.trajectory.start, objective.trajectory.end
    if end is not None and not end > start:
        raise ConfigError(
            f"--objective.trajectory.end={end}: must be above "
            f"--objective.trajectory.start={start}"
        )
    if objective.trajectory.name != "none" and config.optim.name == "schedule_free":
        raise ConfigError(
            f"--objective.trajectory={objective.trajectory.name}: not with "
            "--optim=schedule_free, which trains and evaluates different parameters"
        )


def _check_pairs(objective: ObjectiveConfig) -> None:
    """Refuse combinations of objectives that are not defined."""
    weighs_tokens = objective.token_weights.reference is not None
    if objective.token_weights.step is not None and not weighs_tokens:
        raise ConfigError(
            f"--objective.token-weights.step={objective.token_weights.step}: needs "
            "--objective.token-weights.reference=RUN"
        )
    if objective.label_smoothing and weighs_tokens:
        raise ConfigError(
            f"--objective.label-smoothing={objective.label_smoothing}: not with "
            "--objective.token-weights.reference, which weights the cross entropies of "
            "plain targets: a token of small weight would be smoothed away"
        )
    if objective.label_smoothing and objective.reweight.name != "none":
        raise ConfigError(
            f"--objective.label-smoothing={objective.label_smoothing}: not with "
            f"--objective.reweight={objective.reweight.name}, which weights the cross "
            "entropies of plain targets: in a row of small weight the smoothing term "
            "would outweigh the text"
        )
    if not objective.sam_radius:
        return
    if objective.reweight.name != "none":
        raise ConfigError(
            f"--objective.sam-radius={objective.sam_radius}: not with "
            f"--objective.reweight={objective.reweight.name}, whose factors are "
            "computed from the losses at the parameters before SAM's ascent"
        )
    if objective.trajectory.name != "none" and objective.trajectory.weight:
        raise ConfigError(
            f"--objective.sam-radius={objective.sam_radius}: not with "
            f"--objective.trajectory={objective.trajectory.name}, which replaces SAM"
        )


def parse_profile(text: str, *, steps: int) -> tuple[int, int]:
    """Parse the value of `--profile`.

    Args:
      text: START:STOP.
      steps: number of steps of the run.

    Returns:
      (START, STOP), with 0 <= START < STOP <= steps.

    Raises:
      ConfigError: if the text is not two such numbers.
    """
    first, _, last = text.partition(":")
    start, stop = read_whole(first), read_whole(last)
    if start is None or stop is None:
        raise ConfigError(
            f"--profile={text}: must be START:STOP, such as 10:13, below 2^31"
        )
    if not start < stop <= steps:
        raise ConfigError(
            f"--profile={text}: must have START < STOP <= --steps={steps}"
        )
    return start, stop
