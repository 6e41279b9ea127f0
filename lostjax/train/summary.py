"""What a finished run came to, gathered for its report.

The ledger sets this model beside the dense model of the same shape: parameters, bytes
of parameters, gradients and optimiser state, the activations that the backward pass
needs, and FLOPs. Activation bytes are those of the traced program (`jax.vjp`'s
residuals, before the compiler fuses any away), so they are comparable, not measured.
"""

import dataclasses
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from lostjax.analysis import measure_text_baselines
from lostjax.nn import budget, sample_tokens
from lostjax.train.config import TrainConfig
from lostjax.train.metrics import read_evaluations, read_metrics
from lostjax.train.model import build_model
from lostjax.train.report import LedgerRow, Report, Sample, Timings
from lostjax.train.setup import Compiled, Setup, count_bytes
from lostjax.train.state import TrainState, abstract_state, model_variables
