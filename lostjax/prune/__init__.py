"""The program `python -m lostjax.prune`; its parts are not public."""
