"""Write llama.npz: a small LLaMA of transformers, its weights, tokens and logits.

Run where torch and transformers are installed (neither is a dependency):
    python tests/nn/goldens/make_llama.py
Names are transformers' own and matrices are (out, in), as it stores them.
"""

import pathlib

import numpy as np
import torch
import transformers

CONFIG = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
    # Wide enough for attention to be far from uniform.
    "initializer_range": 0.3,
}


def main() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**CONFIG, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            # A scale of one would hide a scale that is not applied.
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    tokens = torch.randint(0, config.vocab_size, (2, 24))
    with torch.no_grad():
        logits = model(tokens).logits
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    path = pathlib.Path(__file__).with_name("llama.npz")
    theta = getattr(config, "rope_parameters", {}).get("rope_theta")
    assert theta == CONFIG["rope_theta"], theta
    np.savez_compressed(path, tokens=tokens.numpy(), logits=logits.numpy(), **arrays)
    print(path, path.stat().st_size, sorted(arrays))


if __name__ == "__main__":
    main()
