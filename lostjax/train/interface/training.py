"""Train a configuration from Python; the run is that of the command line.

An interrupt does not lose the run: it is saved, and `Stopped` is raised, so that a loop
over runs ends, too, and a notebook runs no further cell.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.hosts import finish_with_hosts
from lostjax.train.interface.configuration import format_command
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.mistakes import cut_traceback
from lostjax.train.log.sink import Values, is_evaluation
from lostjax.train.session import train
from lostjax.train.watch.signals import StopRequest, catch_stop_signals

Callback = Callable[[int, Mapping[str, float]], object]
"""`callback(step, metrics)`: the number of a finished step, from 1, and its numbers."""


class Stopped(KeyboardInterrupt):
    """A run was interrupted and saved; see `run`.

    Attributes:
      run: the run as it was saved, which can be looked at and resumed; None if it had
        made no step.
    """

    def __init__(self, message: str, run: Run | None) -> None:
        super().__init__(message)
        self.run = run


@cut_traceback
def run(
    config: TrainConfig, *, callbacks: Iterable[Callback] = (), extend: bool = False
) -> Run:
    """Train, evaluate, checkpoint and report, as `python -m lostjax.train` does.

    A directory (`run_dir`) that holds a run is resumed, and a finished run is returned
    as it is.

    Args:
      config: the run, such as `preset("tiny", steps=100)`.
      callbacks: are called with the step and its numbers (`loss`, `gradient_norm`,
        `learning_rate`, `tokens_per_second`, ...) after each training step, while the
        next one runs. An exception from one of them stops the run, which is saved; a
        KeyboardInterrupt counts as an interrupt.

      extend: extend the run in the directory if it was trained for other steps or with
        another `optim.schedule`: pass `dataclasses.replace(run.config, steps=1200)`.

    Returns:
      The run.

    Raises:
      ConfigError, DataError: before anything is written; see `preset`.
      Stopped: if it was interrupted, after saving; the message names the directory. A
        second interrupt raises KeyboardInterrupt at once, and nothing is saved.
      RuntimeError: if the guard stopped the run, or its last checkpoint or its report
        could not be written; what was printed says why.
      Exception: what a callback raised, after saving.

    Example:
      losses = []
      config = lostjax.train.preset("smoke", steps=50)
      watch = lambda step, metrics: losses.append(metrics["loss"])
      run = lostjax.train.run(config, callbacks=[watch])
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"config: must be a configuration, such as lostjax.train.preset('tiny'); "
            f"got {config!r:.60}"
        )
    watchers = _Callbacks(callbacks)
    outcome = train(
        config,
        command=format_command(config),
        started=time.monotonic(),
        sinks=[watchers],
        catch=watchers.catch,
        extends=extend,
    )
    finish_with_hosts()
    error = watchers.error
    if error is not None and not isinstance(error, KeyboardInterrupt):
        error.add_note(f"the run was stopped and saved: {outcome.directory}")
        raise error
    if error is not None or outcome.exit_code > 128:
        raise _describe_stop(load(outcome.directory))
    if outcome.exit_code:
        raise RuntimeError(
            f"{outcome.directory}: the run did not finish as it should (exit code "
            f"{outcome.exit_code}); its log.txt says why"
        )
    return load(outcome.directory)


def _describe_stop(run: Run) -> Stopped:
    try:
        step = run.step
    except ConfigError:  # no checkpoint: it was interrupted before the first step
        return Stopped(f"{run.directory}: stopped before its first step", None)
    return Stopped(
        f"{run.directory}: stopped and saved at step {step} of {run.config.steps}; "
        f"resume with lostjax.train.run(lostjax.train.load({str(run.directory)!r})"
        ".config)",
        run,
    )


class _Callbacks:
    """A sink that calls functions; the first exception stops the run and is kept."""

    def __init__(self, functions: Iterable[Callback]) -> None:
        self._functions = tuple(functions)
        self._stop: StopRequest | None = None
        self.error: BaseException | None = None

    @contextmanager
    def catch(self, stop: StopRequest) -> Iterator[None]:
        """Turn interrupts and exceptions of callbacks into a request."""
        self._stop = stop
        with catch_stop_signals(stop, second=None):
            yield

    def write(self, step: int, values: Values) -> None:
        """Call the functions with a training step."""
        if is_evaluation(values) or self.error is not None:
            return
        metrics = MappingProxyType({k: float(v) for k, v in values.items()})
        try:
            for function in self._functions:
                function(step, metrics)
        except (Exception, KeyboardInterrupt) as error:
            self.error = error
            assert self._stop is not None
            self._stop.ask(signal.SIGINT)

    def go_back(self, step: int) -> None:
        """Repeat later steps: the functions see them again."""

    def close(self) -> None:
        """Do nothing: the functions are the caller's."""
