"""What takes the numbers of a run: `write(step, values)`, `go_back(step)`, `close()`.

There are two kinds of values, told apart by their names: those of a training step hold
`loss`, and those of an evaluation have names that all begin with `eval_` (but for clock
fields). `step` counts finished updates: the first is step 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, SupportsFloat, runtime_checkable

Values = Mapping[str, SupportsFloat]
"""Numbers by name: Python's, numpy's or JAX's scalars."""


@runtime_checkable
class Sink(Protocol):
    """Takes the numbers of a run, in the order of its steps."""

    def write(self, step: int, values: Values) -> None:
        """Take the values of one training step or of one evaluation."""

    def go_back(self, step: int) -> None:
        """Forget what was taken of later steps: the run does them again."""

    def close(self) -> None:
        """Write out what is held back and let go of files; twice is harmless."""


def is_evaluation(values: Values) -> bool:
    """Say whether `values` are an evaluation's: one name begins with `eval_`."""
    return any(name.startswith("eval_") for name in values)


class FanOut:
    """A sink that hands everything to each of `sinks`, in order."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks: Sequence[Sink] = tuple(sinks)

    def write(self, step: int, values: Values) -> None:
        for sink in self._sinks:
            sink.write(step, values)

    def go_back(self, step: int) -> None:
        for sink in self._sinks:
            sink.go_back(step)

    def close(self) -> None:
        errors = []
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:  # the others must be closed all the same
                errors.append(error)
        if errors:
            raise errors[0]
