"""Steps of learning, and their scan: pure functions of a state and a batch."""

from lostjax.steps.fit import BatchAt, Fitted, Measure, Step, fit, map_runs

__all__ = ["BatchAt", "Fitted", "Measure", "Step", "fit", "map_runs"]
