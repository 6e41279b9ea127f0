"""Explain the tokens of a continuation one by one, by every method."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.attribute.methods import (
    FAITHFULNESS_PASSES,
    METHODS,
    Settings,
    measure_faithfulness,
    random_scores,
)
from lostjax.attribute.passage import Passage, probs_of_prompts
from lostjax.nn import Transformer
from lostjax.typing import Array, Variables

RANDOM = "random"
"""The control: scores that know nothing. It has faithfulness and no heat map."""


class Scored(NamedTuple):
    """What a method made of one token."""

    scores_T: np.ndarray
    sufficiency: float
    comprehensiveness: float
    passes: int
    seconds: float


class Explained(NamedTuple):
    """A token of the continuation."""

    token: int
    probability: float
    by_method: dict[str, Scored]


class Explainer:
    """The methods, compiled for one model and the lengths of one text."""

    def __init__(
        self,
        model: Transformer,
        variables: Variables,
        *,
        row_N: Array,
        n_prompt: int,
        methods: Sequence[str],
        settings: Settings,
    ) -> None:
        """Prepare; nothing is compiled yet.

        Args:
          model: the model, on one device.
          variables: its variables.
          row_N: token ids (N,): end-of-text, prompt, continuation.
          n_prompt: T, the tokens of the prompt.
          methods: names in `METHODS`.
          settings: what the methods need.
        """
        self._variables, self._row_N = variables, row_N
        self._n_prompt, self._settings = n_prompt, settings
        self._methods = tuple(methods)

        def passage(variables: Variables, at: Array) -> Passage:
            return Passage(variables, row_N[:-1], n_prompt, at, row_N[at + 1])

        # The variables are arguments: as constants they would be compiled in.
        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return jax.jit(
                lambda variables, at, *rest: function(passage(variables, at), *rest)
            )

        self._score: Mapping[str, Callable[..., Any]] = {
            name: compiled(partial(METHODS[name].score, model, settings))
            for name in methods
        } | {RANDOM: compiled(lambda passage, key: (random_scores(passage, key), 0))}
        self._faithfulness = compiled(partial(measure_faithfulness, model))
        self._probs = compiled(
            lambda passage, tokens_BT: probs_of_prompts(model, passage)(tokens_BT)[
                :, passage.target
            ]
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of the continuation."""
        return len(self._row_N) - 1 - self._n_prompt

    @property
    def most_passes(self) -> int:
        """Forward passes, at most."""
        each = sum(
            METHODS[name].most_passes(self._settings, self._n_prompt)
            + FAITHFULNESS_PASSES
            for name in self._methods
        )
        return self.n_tokens * (each + FAITHFULNESS_PASSES)

    def time_pass(self) -> tuple[float, float]:
        """Time a forward pass, in rows as ReAGent reads them.

        Returns:
          Seconds of a row, and those in which its program was compiled.
        """
        rows = self._settings.n_probes
        prompt_T = self._row_N[1 : 1 + self._n_prompt]
        tokens_BT = jnp.tile(prompt_T, (rows, 1))
        at = jnp.int32(self._n_prompt)
        seconds = []
        for _ in range(2):  # the first call compiles
            started = time.perf_counter()
            self._probs(self._variables, at, tokens_BT).block_until_ready()
            seconds.append(time.perf_counter() - started)
        return seconds[1] / rows, seconds[0] - seconds[1]

    @property
    def n_programs(self) -> int:
        """Programs that are still to be compiled when a pass has been timed."""
        return len(self._score) + 1

    def explain(
        self, index: int, *, seed: int, tell: Callable[[str], None]
    ) -> Explained:
        """Explain a token of the continuation.

        Args:
          index: number of the token, from 0.
          seed: seed of the methods that draw.
          tell: called with each method's name before it runs.

        Returns:
          Its probability, and what each method made of it.
        """
        at = jnp.int32(self._n_prompt + index)
        prompt_BT = self._row_N[None, 1 : 1 + self._n_prompt]
        key = jax.random.fold_in(jax.random.key(seed), index)
        draw_key, mask_key = jax.random.split(key)
        by_method = {}
        for name, score in self._score.items():
            tell(name)
            by_method[name] = self._apply(score, at, draw_key, mask_key)
        probability = float(self._probs(self._variables, at, prompt_BT)[0])
        token = int(self._row_N[1 + self._n_prompt + index])
        return Explained(token, probability, by_method)

    def _apply(
        self, score: Callable[..., Any], at: Array, key: Array, mask_key: Array
    ) -> Scored:
        started = time.perf_counter()
        scores_T, passes = jax.device_get(score(self._variables, at, key))
        seconds = time.perf_counter() - started
        kept, changed = self._faithfulness(self._variables, at, scores_T, mask_key)
        return Scored(scores_T, float(kept), float(changed), int(passes), seconds)


def explained_values(one: Explained) -> dict[str, Any]:
    """Convert what is known of a token to what JSON holds; NaN is None."""
    return one._asdict() | {
        "by_method": {
            name: [_plain(value) for value in scored]
            for name, scored in one.by_method.items()
        }
    }


def read_explained(values: Mapping[str, Any]) -> Explained:
    """Convert back what `explained_values` returned."""
    by_method = {}
    for name, (scores, *rest) in values["by_method"].items():
        kept, changed, passes, seconds = (
            math.nan if value is None else value for value in rest
        )
        scores_T = np.array(scores, np.float32)
        by_method[name] = Scored(scores_T, kept, changed, int(passes), seconds)
    return Explained(values["token"], values["probability"], by_method)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    return value if math.isfinite(value) else None


def summarise(explained: Sequence[Explained]) -> dict[str, Scored]:
    """Average faithfulness, add passes, and take the median time after the first."""
    names = explained[0].by_method
    return {
        name: _summarise([one.by_method[name] for one in explained]) for name in names
    }


def _summarise(scored: Sequence[Scored]) -> Scored:
    return Scored(
        np.stack([one.scores_T for one in scored]),
        float(np.mean([one.sufficiency for one in scored])),
        float(np.mean([one.comprehensiveness for one in scored])),
        sum(one.passes for one in scored),
        # The first token's time includes compiling.
        float(np.median([one.seconds for one in scored[1:]] or [np.nan])),
    )
