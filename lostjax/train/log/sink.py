"""Define the interface of sinks: `write(step, values)`, `go_back(step)`, `close()`.

The names of values tell two kinds apart. Values of a training step include `loss`; the
names of an evaluation's values all begin with `eval_`, except for clock fields. `step`
counts finished updates: the first is step 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, SupportsFloat, runtime_checkable

Values = Mapping[str, SupportsFloat]
"""Numbers by name: scalars of Python, NumPy or JAX."""


@runtime_checkable
class Sink(Protocol):
    """Writes the numbers of a run, in the order of its steps."""

    def write(self, step: int, values: Values) -> None:
        """Write the values of one training step or of one evaluation."""

    def go_back(self, step: int) -> None:
        """Remove the values of later steps, which the run repeats."""

    def close(self) -> None:
        """Write what is held back, and close files; a second call does nothing."""


def is_evaluation(values: Values) -> bool:
    """Return whether `values` are an evaluation's: a name begins with `eval_`."""
    return any(name.startswith("eval_") for name in values)


class FanOut:
    """A sink that passes every call on to each of `sinks`, in order."""

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
            except Exception as error:  # raised below, after the others are closed
                errors.append(error)
        if errors:
            raise errors[0]
