"""Values that no run can have, refused before any work is done.

Nothing here needs a device or data. Errors name the flag, the value, and what is
allowed.
"""

from lostjax.train.config import (
    ConfigError,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    flag_name,
    get_field,
)


def check_config(config: TrainConfig) -> None:
    """Refuse values that no run can have.

    Raises:
      ConfigError: naming the flag, the value, and what is allowed.
    """
    for name, low in {
        "steps": 1,
        "batch_size": 1,
        "accumulate": 1,
        "seed": 0,
        "eval_every": 0,
        "checkpoint_every": 1,
        "keep": 1,
        "model.d_model": 2,
        "model.n_layers": 1,
        "model.n_heads": 1,
        "model.d_hidden": 1,
        "model.channel_groups": 1,
        "data.seq_len": 2,
        "objective.trajectory_lag_epochs": 1,
        "objective.trajectory_top_k": 1,
        "objective.trajectory_lag_steps": 1,
    }.items():
        value = get_field(config, name)
        if value < low:
            raise ConfigError(f"{flag_name(name)}={value}: must be at least {low}")
    for name in ("model.delta", "model.gamma", "optim.final_fraction"):
        value = get_field(config, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{flag_name(name)}={value}: must lie in [0, 1]")
    for name in ("optim.warmup", "optim.b1", "optim.b2", "objective.trajectory_decay"):
        value = get_field(config, name)
        if not 0 <= value < 1:
            raise ConfigError(f"{flag_name(name)}={value}: must lie in [0, 1)")
    for name in (
        "optim.weight_decay",
        "optim.clip",
        "objective.log_partition",
        "objective.trajectory_weight",
        "objective.trajectory_start",
    ):
        value = get_field(config, name)
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{flag_name(name)}={value}: must be 0 or positive")
    if not 0 < config.optim.learning_rate < float("inf"):
        raise ConfigError(
            f"--optim.learning-rate={config.optim.learning_rate}: must be positive"
        )
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"--accumulate={config.accumulate}: must divide --batch-size="
            f"{config.batch_size}"
        )
    _check_model(config.model)
    _check_trajectory(config.objective)
    if config.profile is not None:
        parse_profile(config.profile, steps=config.steps)


def _check_model(model: ModelConfig) -> None:
    if model.d_model % (2 * model.n_heads):
        raise ConfigError(
            f"--model.n-heads={model.n_heads}: must divide --model.d-model="
            f"{model.d_model} into even head widths (rotary positions pair them)"
        )
    narrowest = min(model.d_model, model.d_hidden)
    if model.linear != "dense" and not 1 <= model.rank <= narrowest:
        raise ConfigError(
            f"--model.rank={model.rank}: must lie in [1, {narrowest}], the smaller "
            f"of --model.d-model={model.d_model} and --model.d-hidden={model.d_hidden}"
        )
    if model.linear == "lost" and model.rank % model.channel_groups:
        raise ConfigError(
            f"--model.channel-groups={model.channel_groups}: must divide --model.rank="
            f"{model.rank}, which is laid out by groups too"
        )


def _check_trajectory(objective: ObjectiveConfig) -> None:
    temperature = objective.trajectory_temperature
    if not 0 < temperature < float("inf"):
        raise ConfigError(
            f"--objective.trajectory-temperature={temperature}: must be positive"
        )
    start, end = objective.trajectory_start, objective.trajectory_end
    if end is not None and not end > start:
        raise ConfigError(
            f"--objective.trajectory-end={end}: must be above "
            f"--objective.trajectory-start={start}"
        )


def parse_profile(text: str, *, steps: int) -> tuple[int, int]:
    """Read START:STOP, steps in [0, steps].

    Raises:
      ConfigError: where it is not two steps in order.
    """
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit()):
        raise ConfigError(f"--profile={text}: must be START:STOP, such as 10:13")
    if not int(start) < int(stop) <= steps:
        raise ConfigError(
            f"--profile={text}: must have START < STOP <= --steps={steps}"
        )
    return int(start), int(stop)
