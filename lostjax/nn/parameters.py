"""Number of trainable parameters of a model, computed from its sizes alone.

    embedding V D | L x (attention, mlp, norms) | final norm D | head D V

No parameter is allocated. Each linear map counts itself (`parameter_count`). Kept
indices (LOST) and supports (SLTrain) are not trainable and not counted.
"""

from collections.abc import Mapping
from typing import NamedTuple

from lostjax.nn.linear.projection import Linear
from lostjax.nn.transformer import Transformer


class Parameters(NamedTuple):
    """Number of trainable parameters by part, summed over all layers."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def non_embedding(self) -> int:
        """Return the count without the embedding table and the head."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        """Return the count of all parts."""
        return self.non_embedding + self.embedding + self.head


def count_parameters(model: Transformer) -> Parameters:
    """Count the trainable parameters of a model by part.

    Args:
        model: the model; it is not initialised.

    Returns:
        The counts. Kept indices (LOST) and supports (SLTrain) are not trainable and not
        counted.
    """
    D, L = model.d_model, model.n_layers
    count = {
        name: layer.parameter_count(n_inputs)
        for name, (layer, n_inputs) in linear_maps(model).items()
    }
    head_norms = 2 * (D // model.n_heads) if model.qk_norm else 0
    return Parameters(
        embedding=model.vocab_size * D,
        attention=L * sum(count[name] for name in ("q", "k", "v", "o")),
        mlp=L * sum(count[name] for name in ("gate", "up", "down")),
        norms=L * (2 * D + head_norms) + D,
        head=D * model.vocab_size,
    )


def linear_maps(model: Transformer) -> Mapping[str, tuple[Linear, int]]:
    """Build the seven linear maps of one layer, each with its number of inputs.

    Args:
        model: the model; the maps are unbound and hold no parameters.

    Returns:
        A mapping from name (q, k, v, o, gate, up, down) to (linear map, M).
    """
    D, F = model.d_model, model.d_hidden
    sizes = dict.fromkeys(("q", "k", "v", "o"), (D, D))
    sizes |= {"gate": (D, F), "up": (D, F), "down": (F, D)}
    return {
        name: (
            model.linear(
                features=n_outputs,
                name=None,
                channel_groups=model.channel_groups if name in ("o", "down") else 1,
                dtype=model.dtype,
            ),
            n_inputs,
        )
        for name, (n_inputs, n_outputs) in sizes.items()
    }
