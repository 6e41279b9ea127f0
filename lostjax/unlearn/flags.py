"""Flags of `python -m lostjax.unlearn`, and what they may be."""

import dataclasses
import math
from typing import Literal

from lostjax.errors import ConfigError, nearest_hint
from lostjax.train.config.checks import check_seed
from lostjax.train.flags import Positional
from lostjax.unlearn.methods import DIVERGENCES


@dataclasses.dataclass(frozen=True)
class Flags:
    """Make a trained model forget examples, and measure what that costs.

    A new run directory is written, with the page unlearn.html.
    """

    run: Positional[str]
    """Directory of the run, or latest."""
    forget: str | None = None
    """File of what is to be forgotten, a JSON object a line: {"prompt": "...",
    "answer": "..."}, with a "template" if wanted, or {"text": "..."}."""
    retain: str | None = None
    """File of what is to be kept, in the same form; its loss is descended too."""
    neighbours: str | None = None
    """File of examples like the forgotten ones, on which utility is measured; default
    every fifth of --retain, which is then not trained on."""
    method: Literal[
        "flat",
        "npo",
        "simple_npo",
        "dpo",
        "gradient_ascent",
        "random_label",
        "template",
    ] = "flat"
    """How to forget. gradient_ascent with --retain is gradient difference."""
    divergence: str = "total_variation"
    """Of FLAT: total_variation, kl, reverse_kl, jensen_shannon, pearson, neyman,
    squared_hellinger or jeffreys."""
    beta: float | None = None
    """Of npo and dpo (default 0.1) and simple_npo (2.5)."""
    template: str = "I do not know."
    """The other answer of examples without one, for flat, dpo and template."""
    saliency: float | None = None
    """Train this share of the weights alone, those that the forgotten answers depend on
    most (SalUn); in (0, 1)."""
    steps: int = 100
    """Updates."""
    batch_size: int = 8
    """Examples in an update, and as many retained ones."""
    learning_rate: float | None = None
    """Of AdamW, constant; default a tenth of the run's own."""
    weight_decay: float = 0.0
    """Of AdamW."""
    retain_weight: float = 1.0
    """Factor of the loss of --retain."""
    max_utility_loss: float = 0.05
    """Stop before held-out bits per byte rise by more than this share."""
    check_every: int | None = None
    """Updates from one check to the next; default a tenth of --steps."""
    relearn_steps: int = 32
    """Updates on a tenth of the forgotten that try to bring it back."""
    relearn_rate: float | None = None
    """Learning rate of these; default a tenth of the run's own, whatever
    --learning-rate is, so that methods can be compared."""
    against: str | None = None
    """A run that was trained without the forgotten examples; the page has the gaps."""
    tokens: int = 16384
    """Held-out tokens to score, spread over the text."""
    seed: int = 0
    """Seed of the order and of random labels."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    mesh: str | None = None
    """Devices, such as data:2; default the run's."""
    out: str | None = None
    """New run directory; default RUN-unlearned."""


def check_flags(flags: Flags) -> None:
    """Refuse values that are out of their range.

    Raises:
      ConfigError: naming the flag, its value and what is allowed.
    """
    if flags.forget is None:
        raise ConfigError(
            "--forget=FILE: is needed, the examples to forget; a line of it is "
            '{"prompt": "...", "answer": "..."} or {"text": "..."}'
        )
    check_seed(flags.seed)
    if flags.divergence not in DIVERGENCES:
        raise ConfigError(
            f"--divergence={flags.divergence}: must be one of {', '.join(DIVERGENCES)}"
            f"{nearest_hint(flags.divergence, DIVERGENCES)}"
        )
    if flags.saliency is not None and not 0 < flags.saliency < 1:
        raise ConfigError(f"--saliency={flags.saliency}: must lie in (0, 1)")
    if not flags.template.strip():
        raise ConfigError("--template: is empty")
    for name in ("steps", "batch-size", "relearn-steps", "tokens", "check-every"):
        value = getattr(flags, name.replace("-", "_"))
        if value is not None and not 1 <= value < 2**31:
            raise ConfigError(f"--{name}={value}: must be 1 or more")
    for name in ("learning-rate", "relearn-rate", "beta", "max-utility-loss"):
        value = getattr(flags, name.replace("-", "_"))
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name}={value}: must be positive")
    for name in ("weight-decay", "retain-weight"):
        value = getattr(flags, name.replace("-", "_"))
        if not 0 <= value < math.inf:
            raise ConfigError(f"--{name}={value}: must be 0 or positive")
    if flags.method != "flat" and flags.divergence != "total_variation":
        raise ConfigError(f"--divergence={flags.divergence}: is of --method=flat alone")
    if flags.beta is not None and flags.method not in ("npo", "simple_npo", "dpo"):
        raise ConfigError(f"--beta={flags.beta}: is of npo, simple_npo and dpo alone")
    if flags.retain is None and flags.retain_weight != 1:
        raise ConfigError(
            f"--retain-weight={flags.retain_weight}: needs --retain, the examples"
        )
