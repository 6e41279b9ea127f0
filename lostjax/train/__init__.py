"""The trainer: `python -m lostjax.train`, and the parts it is made of."""
