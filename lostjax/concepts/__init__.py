"""The program `python -m lostjax.concepts`; its parts are not public."""
