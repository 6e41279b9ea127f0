"""lostjax: memory-efficient language-model training in JAX.

The rooms: `lostjax.nn` (layers and models), `lostjax.losses`, `lostjax.optim` (optax
transformations), `lostjax.data` (text to batches), `lostjax.analysis`,
`lostjax.train` (the trainer: `python -m lostjax.train`).
"""

__version__ = "0.1.0"
