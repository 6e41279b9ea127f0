"""The papers' headline claims, measured again: `python -m lostjax.repro NAME`."""
