"""Watch a run for trouble: signals, spikes, the first bad tensor."""
