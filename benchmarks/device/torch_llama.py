"""Time a step of PyTorch's dense LLaMA: bfloat16, SDPA, fused AdamW, torch.compile.

    python torch_llama.py D_MODEL D_HIDDEN LAYERS HEADS ROWS LENGTH

The same shape, products and optimiser as the dense form: float32 parameters, bfloat16
products, no biases, an untied head, gradients clipped at 1. Rows are one document,
because SDPA's flash attention takes no mask; this favours PyTorch. It runs in a process
of its own, which returns its memory, and prints the check's events.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY = 32_000
TURNS = 10


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Apply attention and MLP."""
        rows, length, width = x.shape
        split = (rows, length, self.heads, width // self.heads)
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        q, k, v = (each.view(split).transpose(1, 2) for each in (q, k, v))
        q, k = (_rotate(each, cos, sin).to(v.dtype) for each in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(x.shape))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Llama(nn.Module):
    """The dense model, up to its loss."""

    def __init__(self, width: int, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, hidden, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the mean cross entropy."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))


def measure(sizes: list[int], device: str) -> dict[str, float]:
    """Compile the step, run it, and return its seconds, tokens and memory."""
    width, hidden, layers, heads, rows, length = sizes
    on_gpu = device == "cuda"
    torch.manual_seed(0)
    with torch.device(device):
        model = Llama(width, hidden, layers, heads)
        tokens = torch.randint(0, VOCABULARY, (rows, length))
        targets = torch.randint(0, VOCABULARY, (rows, length))
        size = width // heads
        rates = 1e4 ** (-torch.arange(0, size, 2).float() / size)
        angles = torch.arange(length).float()[:, None] * rates
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)
    cos, sin = angles.cos(), angles.sin()

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(tokens, targets, cos, sin)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss

    def wait(loss: torch.Tensor) -> float:
        return float(loss.detach())  # waits for the device

    for _ in range(3):
        wait(step())
    taken = []
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(3):
            loss = step()
        wait(loss)
        if on_gpu:
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - start) / 3)
    seconds = statistics.median(taken)
    return {
        "seconds": seconds,
        "tokens_per_second": rows * length / seconds,
        "peak": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "loss": wait(loss),
        "torch": torch.__version__,
    }


def main() -> None:
    """Print the row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    row = measure([int(word) for word in sys.argv[1:]], device)
    print(json.dumps({"row": "torch", "status": "done", "peak_is": "measured", **row}))


if __name__ == "__main__":
    main()
