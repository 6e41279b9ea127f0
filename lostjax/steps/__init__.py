"""One training step: gradient, guard, optimiser update; every function is pure."""
