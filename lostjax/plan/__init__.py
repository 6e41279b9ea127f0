"""Does a run fit, and what will bind it? `python -m lostjax.plan`."""
