"""The trainer's Python interface; `lostjax.train` exports its public names."""
