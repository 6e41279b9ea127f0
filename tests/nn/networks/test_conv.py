"""The convolutional encoder: its formula by scipy, its axes, its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from lostjax.nn import ConvNet


def make(widths=(3, 4), *, channels=2):
    model = ConvNet(widths)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 8, 7, channels)))


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def one_layer(x_HWC, kernel_33CN, bias_N):
    """Pad as XLA's SAME does for stride 2, correlate, take every second one."""
    height, width, _ = x_HWC.shape
    pads = [max(0, (-(-n // 2) - 1) * 2 + 3 - n) for n in (height, width)]
    padded = np.pad(x_HWC, [(pad // 2, pad - pad // 2) for pad in pads] + [(0, 0)])
    maps = [
        sum(
            correlate2d(padded[..., c], kernel_33CN[..., c, n], mode="valid")[::2, ::2]
            for c in range(padded.shape[-1])
        )
        for n in range(kernel_33CN.shape[-1])
    ]
    return np.maximum(np.stack(maps, -1) + bias_N, 0)


def test_it_is_its_formula():
    model, variables = make()
    x_BHWC = draw(2, 8, 7, 2)
    for layer in variables["params"].values():
        layer["bias"] = draw(*layer["bias"].shape)
    expected = []
    for y in np.asarray(x_BHWC, np.float64):
        for layer in variables["params"].values():
            y = one_layer(y, np.asarray(layer["kernel"]), np.asarray(layer["bias"]))
        expected.append(y.mean((0, 1)))
    np.testing.assert_allclose(model.apply(variables, x_BHWC), expected, rtol=2e-5)


def test_any_leading_axes():
    model, variables = make()
    x = draw(2, 3, 8, 7, 2)
    rows = model.apply(variables, x.reshape(-1, 8, 7, 2))
    y = model.apply(variables, x)
    np.testing.assert_allclose(y.reshape(-1, 4), rows, rtol=1e-5)
    np.testing.assert_allclose(model.apply(variables, x[0, 0]), rows[0], rtol=1e-5)


def test_it_starts_by_hes_rule():
    _, variables = make((64, 64), channels=32)
    for layer, n_inputs in (("layer_0", 32), ("layer_1", 64)):
        kernel = variables["params"][layer]["kernel"]
        assert kernel.shape == (3, 3, n_inputs, 64)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * n_inputs)), rel=0.03)
        assert not np.any(variables["params"][layer]["bias"])


@pytest.mark.parametrize("widths", [(), (4, 0)], ids=str)
def test_widths_are_positive(widths):
    with pytest.raises(ValueError, match="must be one or more, each positive"):
        make(widths)
