"""Named configurations: three for a laptop, and the model sizes of the papers.

`llama_*` and `lost_*` have the sizes of the low-rank pre-training literature (GaLore,
Zhao et al. 2024, arXiv:2403.03507; SLTrain; CoLA; LOST, 2025, arXiv:2508.02668): width,
hidden width, layers, heads, rank, rows of 256 tokens, 512 rows per step, and 10k to
150k steps. LOST keeps 1 % of the input channels at gamma 0.7. The learning rates of
`lost_*` are those of CoLA's scripts, whose layer differs only in having no sparse
branch; the learning rates of `llama_*` are this library's choice.
"""

from lostjax.errors import ConfigError, nearest_hint
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

_SIZES = {
    # name: d_model, d_hidden, layers, heads, rank, steps, dense rate, lost rate
    "60m": (512, 1376, 8, 8, 128, 10_000, 1e-3, 6e-3),
    "130m": (768, 2048, 12, 12, 256, 20_000, 1e-3, 3e-3),
    "350m": (1024, 2736, 24, 16, 256, 60_000, 6e-4, 3e-3),
    "1b": (2048, 5461, 24, 32, 512, 100_000, 5e-4, 2e-3),
    "7b": (4096, 11008, 32, 32, 1024, 150_000, 3e-4, 1e-3),
}


def _paper_preset(size: str, *, lost: bool) -> TrainConfig:
    width, hidden, layers, heads, rank, steps, dense_rate, lost_rate = _SIZES[size]
    return TrainConfig(
        preset=f"{'lost' if lost else 'llama'}_{size}",
        steps=steps,
        batch_size=512,
        checkpoint_every=1000,
        eval_every=1000,
        model=ModelConfig(
            d_model=width,
            n_layers=layers,
            n_heads=heads,
            d_hidden=hidden,
            linear="lost" if lost else "dense",
            rank=rank,
            delta=0.01,
            dtype="bfloat16",
            remat="bottleneck" if lost else "none",
        ),
        data=DataConfig(tokenizer="bpe:32000", seq_len=256),
        optim=OptimConfig(learning_rate=lost_rate if lost else dense_rate),
    )


_TINY = TrainConfig()

_SMOKE = TrainConfig(
    preset="smoke",
    steps=20,
    batch_size=8,
    eval_every=0,
    checkpoint_every=10,
    model=ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_hidden=88, rank=8, delta=0.25
    ),
    data=DataConfig(tokenizer="bytes", seq_len=64),
)

_SMALL = TrainConfig(
    preset="small",
    steps=1500,
    checkpoint_every=250,
    model=ModelConfig(
        d_model=256, n_layers=6, n_heads=8, d_hidden=688, rank=64, delta=0.05
    ),
    optim=OptimConfig(learning_rate=4e-3),
)

PRESETS: dict[str, TrainConfig] = {
    "smoke": _SMOKE,
    "tiny": _TINY,
    "small": _SMALL,
    **{f"llama_{size}": _paper_preset(size, lost=False) for size in _SIZES},
    **{f"lost_{size}": _paper_preset(size, lost=True) for size in _SIZES},
}
"""Configurations by the name that `--preset` takes."""


def get_preset(name: str, *, flag: str = "--preset") -> TrainConfig:
    """Return the configuration of a preset.

    Args:
      name: name of the preset.
      flag: the flag that it comes from, for messages.

    Raises:
      ConfigError: if no preset has this name; the message names the nearest ones.
    """
    if name not in PRESETS:
        hint = nearest_hint(name, PRESETS)
        raise ConfigError(
            f"{flag}={name}: no such preset; the presets are {', '.join(PRESETS)}{hint}"
        )
    return PRESETS[name]
