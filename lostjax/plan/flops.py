"""Count the FLOPs of one instruction of a compiled program: 2 per multiply-add.

Compilers write matrix products as convolutions on TPUs, and as calls of cuBLAS on GPUs.
For a Pallas kernel its own cost estimate is used. Attention kernels of other libraries
have none: the products that attention needs are counted. Elementwise operations are not
counted.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from lostjax.plan.hlo import Computation, Instruction, Shape


def count_flops(computation: Computation, each: Instruction) -> float:
    """Count the FLOPs of one instruction, without the computations that it calls.

    Args:
      computation: the computation that contains it, for the shapes of its operands.
      each: the instruction.

    Returns:
      Its FLOPs; 0 for anything other than matrix products.
    """
    if each.opcode == "dot":
        left = _shape(computation, each.operands[0])
        inner = [left.dims[axis] for axis in each.numbers("lhs_contracting_dims")]
        return 2.0 * each.shapes[0].size * math.prod(inner)
    if each.opcode == "convolution":
        return _count_convolution(computation, each)
    if each.opcode == "custom-call":
        said = re.search(r'"cost_estimate":\s*\{[^}]*"flops":"?(\d+)', each.attributes)
        if said:
            return float(said[1])
        attention = _count_attention(computation, each)
        if attention is not None:
            return attention
        if "cublas$gemm" in each.attributes or "cublas$lt$matmul" in each.attributes:
            return _count_gemm(computation, each)
    return 0.0


def _count_gemm(computation: Computation, each: Instruction) -> float:
    """Count a call of cuBLAS, whose dimension numbers are in its JSON configuration."""
    found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', each.attributes)
    left = _shape(computation, each.operands[0])
    axes = re.findall(r"\d+", found[1]) if found else []
    return 2.0 * each.shapes[0].size * math.prod(left.dims[int(axis)] for axis in axes)


def _count_attention(computation: Computation, each: Instruction) -> float | None:
    """Count the products of fused attention; None for any other instruction.

    Each product has the size of queries times keys. There are two in the forward pass,
    and five in the backward pass, which recomputes the scores. All query-key pairs are
    counted, although the kernels skip tiles that the causal mask hides.
    """
    if "__cudnn$fmha" in each.attributes:
        found = re.search(
            r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]',
            each.attributes,
        )
        assert found is not None
        n_keys = int(re.findall(r"\d+", found[1])[-1])
        queries = _shape(computation, each.operands[0])
        backward = "SoftmaxBackward" in each.attributes
    elif phase := re.search(r"/splash_mha_(fwd|dkv)", each.origin):
        shapes = (_shape(computation, name) for name in each.operands)
        queries = next(
            shape for shape in shapes if len(shape.dims) == 4
        )  # (B, H, T, K)
        n_keys = queries.dims[2]
        backward = phase[1] == "dkv"
    else:
        return None
    return 2.0 * (5 if backward else 2) * queries.size * n_keys


def _count_convolution(computation: Computation, each: Instruction) -> float:
    """Count the FLOPs of a convolution, without multiply-adds of padding.

    A TPU's compiler writes batched products as convolutions whose padded windows each
    meet one input: only pairs of an output and an existing input are counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    assert labels is not None
    left, kernel = (_shape(computation, name) for name in each.operands[:2])
    out = each.shapes[0]
    features = out.dims[labels[3].index("b")] * out.dims[labels[3].index("f")]
    inner = kernel.dims[labels[2].index("i")]
    window = _read_window(each.attributes)
    places = 1
    for axis in range(len(labels[1]) - 2):
        places *= _count_places(
            window.get(axis, {}),
            inputs=left.dims[labels[1].index(str(axis))],
            size=kernel.dims[labels[2].index(str(axis))],
            outputs=out.dims[labels[3].index(str(axis))],
        )
    return 2.0 * features * inner * places


def _read_window(attributes: str) -> dict[int, dict[str, tuple[int, ...]]]:
    """Parse `window={size=3x1 pad=1_1x0_0}` into {axis: {name: numbers}}."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    window: dict[int, dict[str, tuple[int, ...]]] = {}
    for part in found[1].split() if found else []:
        name, _, values = part.partition("=")
        for axis, value in enumerate(values.split("x")):
            numbers = tuple(map(int, value.split("_")))
            window.setdefault(axis, {})[name] = numbers
    return window


def _count_places(
    window: Mapping[str, tuple[int, ...]], *, inputs: int, size: int, outputs: int
) -> int:
    """Count the pairs of an output and a window position that meet an input."""
    (stride,) = window.get("stride", (1,))
    (left_dilation,) = window.get("lhs_dilate", (1,))
    (right_dilation,) = window.get("rhs_dilate", (1,))
    low = window.get("pad", (0, 0))[0]
    place = np.arange(outputs)[:, None] * stride - low
    place = place + np.arange(size)[None, :] * right_dilation
    meets = (place >= 0) & (place <= (inputs - 1) * left_dilation)
    return int(np.sum(meets & (place % left_dilation == 0)))


def _shape(computation: Computation, name: str) -> Shape:
    return computation.by_name[name].shapes[0]
