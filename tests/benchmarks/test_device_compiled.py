"""NVIDIA's compiler takes the programs of the check, and needs no GPU for it."""

import importlib.util
import warnings

import pytest
from device import values
from device.forms import (
    BASE,
    FORMS,
    configure,
    kernels_wherever_they_fit,
    largest,
    list_forms,
)
from device.programs import (
    count_kernels,
    lower_layer,
    lower_step,
    one_device,
    peak_bytes,
)

from lostjax.plan.targets import find_target

if importlib.util.find_spec("jax_cuda12_plugin") is None:
    message = "no CUDA compiler, no check was compiled: pip install -e '.[plan]'"
    warnings.warn(pytest.PytestWarning(message), stacklevel=1)
    pytest.skip(message, allow_module_level=True)

pytestmark = pytest.mark.slow
STEPS = [(size, name) for size in ("350m", "60m", "1b") for name in list_forms(size)]


def gpu():
    return one_device(find_target("h100:1").devices[0])


@pytest.mark.parametrize("name", values.list_cases("gpu"))
def test_values_and_gradients_are_those_of_a_kernel(name):
    mesh = gpu()
    case = values.find_case(name, mesh, kind="gpu")
    _, (xla, kernel) = values.compile_case(case, mesh, kernel=True)
    assert not count_kernels(xla.as_text())
    # Forward and backward.
    assert sum(count_kernels(kernel.as_text()).values()) >= 2


@pytest.mark.parametrize("size, name", STEPS, ids=map(" ".join, STEPS))
def test_a_step_and_its_layer_compile_with_their_kernels(size, name):
    form = FORMS[name]
    config = configure(size, form, kind="gpu")
    with kernels_wherever_they_fit():
        step = lower_step(config, gpu()).compile()
        programs = [step.as_text()]
        if form.changes_layer or name == BASE:
            programs.append(lower_layer(config, gpu()).compile().as_text())
    for program in programs:
        found = count_kernels(program)
        assert ("__cudnn$fmha" in found) == form.fused
        assert ("mosaic_gpu" in found) == form.kernels
    # LOST's own state stays on the device beside the form, of .9 of 80 GB.
    assert peak_bytes(step) < 64e9


@pytest.mark.parametrize("size, rows", [("1b", 1024), ("7b", 256)])
def test_the_largest_batch_compiles(size, rows):
    step = lower_step(largest(size, rows, kind="gpu"), gpu()).compile()
    assert "__cudnn$fmha" in count_kernels(step.as_text())
