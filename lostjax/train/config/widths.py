"""Scale a model to another width.

    d_model = w;   n_heads, d_hidden, rank in proportion;   head width, depth unchanged

The head width is constant, so attention's scale 1 / sqrt(K) is the same at every width.
The number of LOST's kept channels is a share of the inputs and needs no scaling.
"""

import dataclasses

from lostjax.errors import ConfigError
from lostjax.train.config.schema import ModelConfig


def at_width(model: ModelConfig, d_model: int) -> ModelConfig:
    """Scale a model to another width.

    Args:
      model: the sizes that are scaled.
      d_model: width of the residual stream, a positive multiple of the head width.

    Returns:
      The configuration with the number of heads, the hidden width and the rank scaled
      in proportion; hidden width and rank are rounded and at least 1.

    Raises:
      ConfigError: if d_model is not a positive multiple of the head width.
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
