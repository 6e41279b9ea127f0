"""The same model at another width: everything inside a layer grows together.

    d_model = w;  n_heads, d_hidden, rank  in proportion;  head width, depth as they are

Head width stays, so attention's scale 1 / sqrt(K) means the same at every width, and
LOST's kept channels, a share of the inputs, follow by themselves.
"""

import dataclasses

from lostjax.errors import ConfigError
from lostjax.train.config.schema import ModelConfig


def at_width(model: ModelConfig, d_model: int) -> ModelConfig:
    """Give a model another width.

    Args:
      model: sizes to start from.
      d_model: width of the residual stream, a multiple of the head width.

    Returns:
      The model with heads, hidden width and rank scaled along, rounded, at least 1.

    Raises:
      ConfigError: where the width holds no whole number of heads.
    """
    head = model.d_model // model.n_heads
    if d_model < 1 or d_model % head:
        raise ConfigError(
            f"width {d_model}: must be a positive multiple of the head width {head} "
            f"(--model.d-model={model.d_model} over --model.n-heads={model.n_heads})"
        )
    factor = d_model / model.d_model
    return dataclasses.replace(
        model,
        d_model=d_model,
        n_heads=d_model // head,
        d_hidden=max(1, round(model.d_hidden * factor)),
        rank=max(1, round(model.rank * factor)),
    )
