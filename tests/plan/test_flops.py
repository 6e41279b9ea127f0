"""FLOPs of instructions that only a TPU's or a GPU's compiler writes, by their text."""

import jax
import jax.numpy as jnp
import pytest

from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program

ONE = {"data": 1, "fsdp": 1, "tensor": 1}

CONVOLUTIONS = [
    # (lhs, kernel, window arguments)
    ((2, 9, 3), (4, 3, 5), {}),
    ((2, 9, 3), (4, 3, 5), {"padding": [(3, 2)]}),
    ((2, 9, 3), (4, 3, 5), {"window_strides": [2], "rhs_dilation": [2]}),
    ((2, 9, 3), (4, 3, 5), {"lhs_dilation": [3], "padding": [(1, 4)]}),
]


@pytest.mark.parametrize("left, kernel, window", CONVOLUTIONS)
def test_convolutions_count_pairs_that_exist(left, kernel, window):
    """TPUs write batched products as convolutions: their padding is no work."""
    options = {"window_strides": [1], "padding": [(0, 0)]} | window

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, dimension_numbers=("NHC", "HIO", "NHC"), **options
        )

    # Ones everywhere: each output is the number of pairs that made it.
    made = convolve(jnp.ones(left), jnp.ones(kernel))
    (low, high), stride = options["padding"][0], options["window_strides"][0]
    left_step = options.get("lhs_dilation", [1])[0]
    right_step = options.get("rhs_dilation", [1])[0]
    text = f"""HloModule m

ENTRY %main (x: f32[1], w: f32[1]) -> f32[1] {{
  %x = f32[{write(left)}]{{2,1,0}} parameter(0)
  %w = f32[{write(kernel)}]{{2,1,0}} parameter(1)
  ROOT %y = f32[{write(made.shape)}]{{2,1,0}} convolution(%x, %w), window={{\
size={kernel[0]} stride={stride} pad={low}_{high} lhs_dilate={left_step} \
rhs_dilate={right_step}}}, dim_labels=b0f_0io->b0f
}}
"""
    found = count_costs(parse_program(text), axes=ONE)
    assert found.flops == 2 * float(made.sum())


def write(shape):
    return ",".join(map(str, shape))


B, T, H, K = 2, 256, 4, 64
CUDNN = """HloModule m

ENTRY %main (q: bf16[2,256,4,64]) -> bf16[2,256,4,64] {{
  %q = bf16[2,256,4,64]{{3,2,1,0}} parameter(0)
  ROOT %y = bf16[2,256,4,64]{{3,2,1,0}} custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax{backward}", backend_config={{\
"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": {{"element_type": "BF16", \
"dimensions": ["2", "4", "256", "256"]}}, "mask_type": "CAUSAL"}}}}
}}
"""
SPLASH = """HloModule m

ENTRY %main (i: s8[1,1,1], q: bf16[2,4,256,64]) -> bf16[2,4,256,64] {{
  %i = s8[1,1,1]{{2,1,0}} parameter(0)
  %q = bf16[2,4,256,64]{{3,2,1,0}} parameter(1)
  ROOT %y = bf16[2,4,256,64]{{3,2,1,0}} custom-call(%i, %q, %q, %q), \
custom_call_target="tpu_custom_call", metadata={{\
op_name="jit(step)/splash_mha_{phase}_segmented/pallas_call"}}
}}
"""


@pytest.mark.parametrize(
    "text, n_products",
    [
        (CUDNN.format(backward=""), 2),
        (CUDNN.format(backward="Backward"), 5),
        (SPLASH.format(phase="fwd"), 2),
        (SPLASH.format(phase="dkv"), 5),
    ],
)
def test_fused_attention_counts_products_of_the_scores_size(text, n_products):
    found = count_costs(parse_program(text), axes=ONE)
    assert found.flops == n_products * 2 * B * H * T * T * K
    assert found.has_cudnn == ("cudnn" in text)


def test_a_kernel_that_says_nothing_of_itself_counts_nothing():
    text = SPLASH.format(phase="fwd").replace("splash_mha", "other")
    assert count_costs(parse_program(text), axes=ONE).flops == 0
