"""The program `python -m lostjax.attribute`: what a generated token rests on."""
