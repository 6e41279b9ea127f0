"""The program `python -m lostjax.unlearn`; its parts are not public."""
