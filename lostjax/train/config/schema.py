"""The configuration of a run: frozen dataclasses.

Every field is a flag of `python -m lostjax.train` under the same dotted name.
`train.config.checks` refuses wrong values, `train.config.stored` is the JSON form.
"""

import dataclasses
from typing import Literal

LinearName = Literal["dense", "low_rank", "cola", "sltrain", "lost"]
OptimizerName = Literal[
    "adamw", "frugal", "galore", "muon", "sign_sgd", "schedule_free"
]
ScheduleName = Literal["cosine", "wsd", "constant"]
SubspaceName = Literal["rows", "columns", "coordinates", "blocks", "svd", "orthonormal"]

AttentionName = Literal["auto", "xla", "cudnn", "splash"]
ProductName = Literal["xla", "mosaic_tpu", "mosaic_gpu"]
RematName = Literal["none", "full", "products", "bottleneck"]
ReweightName = Literal["none", "lin_upper", "quadratic", "extremes", "upper", "kl_dro"]
TrajectoryName = Literal["none", "saf", "mesa", "lagged"]


EVALUATIONS = 5
"""Held-out evaluations of a run by default; all but the last add 10 % to its time."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A LLaMA-style decoder whose matrices are of one linear family."""

    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Number of decoder blocks."""
    n_heads: int = 4
    """Attention heads; must divide --model.d-model into even head widths."""
    d_hidden: int = 344
    """Width of the SwiGLU's hidden layer."""
    linear: LinearName = "lost"
    """Linear map of the attention and MLP matrices."""
    rank: int = 32
    """Rank of the low-rank factors (every map except dense)."""
    delta: float = 0.0625
    """Kept share of input channels (lost) or of entries (sltrain), in [0, 1]."""
    gamma: float = 0.7
    """Weight of LOST's low-rank branch against its sparse branch, in [0, 1]."""
    learn_gamma: bool = False
    """Learn gamma, one per matrix, starting from --model.gamma."""
    activation: Literal["silu", "none"] = "silu"
    """Activation between the low-rank factors of lost and cola."""
    channels: Literal["residual", "random", "largest"] = "residual"
    """LOST's channel choice: by residual norm, at random, or the largest of W0."""
    factors: Literal["svd", "scaled_normal"] = "svd"
    """Initial factors of lost and low_rank (cola always uses scaled_normal)."""
    correct_variance: bool = False
    """Scale LOST's initial factors to the output variance of the dense layer."""
    channel_groups: int = 1
    """Keep equal numbers of channels in each of this many groups of o's and down's
    inputs, so that their gather stays local on up to this many tensor shards."""
    keep_swiglu_silu: bool = True
    """Keep the SwiGLU's own SiLU beside the one inside the factors."""
    qk_norm: bool = False
    """RMSNorm on queries and keys."""
    base_width: int = 0
    """Use muP, equal to the usual initialisation and learning rates at this width, so
    that the best learning rate of a narrow model is that of a wide one; 0: no muP."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and products; parameters stay float32."""
    product: ProductName = "xla"
    """Products of lost, cola and low_rank: by XLA, or by kernels for TPUs (mosaic_tpu)
    or Hopper GPUs (mosaic_gpu, in bfloat16). If a kernel does not fit, XLA multiplies
    and the log says why."""
    attention: AttentionName = "auto"
    """Attention: by XLA, which writes the scores to memory (on a CPU in blocks that fit
    its caches, with a backward pass of their own), or by kernels that keep them on the
    chip, for NVIDIA GPUs (cudnn, in bfloat16, rows of an even number of tokens) or TPUs
    (splash, rows of a multiple of 128 tokens). If a kernel does not fit, XLA attends
    and the log says why. auto takes the kernel that fits the devices, else XLA."""
    remat: RematName = "products"
    """Activations kept for the backward pass: all (none), the residual stream alone
    (full), the outputs of matrices and attention (products; fastest on a CPU), or the
    r-wide bottlenecks and kept channels (bottleneck)."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The source of the text, and how it becomes rows of tokens."""

    source: str = "sotu"
    """Training text: sotu (State of the Union messages, part of lostjax), a file, glob,
    directory, tfds:NAME or mixture 0.7*sotu,0.3*books/*.txt. Also sotu:1961-1980,
    file.jsonl#field, tfds:DIRECTORY, tokens in .npy or .bin, and a list such as
    books,letters/*.md."""
    heldout: str = "auto"
    """Held-out text: auto, a fraction such as 0.05, or a source of its own."""
    tokenizer: str = "bpe:4096"
    """Tokenizer: bpe:SIZE (trained on the training text), bytes, or a tokenizer.json or
    SentencePiece file."""
    seq_len: int = 128
    """Tokens in a row."""
    cache_dir: str | None = None
    """Directory of cached tokenizers and packed rows; default ~/.cache/lostjax."""


@dataclasses.dataclass(frozen=True)
class FrugalConfig:
    """The split of each matrix into a part with Adam's state and a rest."""

    density: float = 0.25
    """Share of each matrix that has a state, in [0, 1]; also for galore."""
    update_gap: int = 200
    """Steps between choices of that share; also for galore."""
    subspace: SubspaceName = "rows"
    """Kind of share: rows are inputs, columns outputs, blocks whole layers."""
    block_order: Literal["random", "ascending", "descending", "mirror"] = "random"
    """Order of the layers with --optim.frugal.subspace=blocks."""
    stagger: int = 1
    """Groups of matrices that refresh at different steps; for svd and galore."""
    state_free: Literal["sign", "sgd", "none"] = "sign"
    """Update of the rest of each matrix."""
    free_scale: float = 1.0
    """Learning rate of the rest, relative to the other part's."""
    on_refresh: Literal["reset", "keep", "reproject"] = "reset"
    """Treatment of the state when the share is chosen anew."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser. `--optim=NAME` is short for `--optim.name=NAME`."""

    name: OptimizerName = "adamw"
    """Optimiser; frugal is Adam in a part of each matrix and signs elsewhere,
    schedule_free AdamW without a decaying schedule."""
    learning_rate: float = 6e-3
    """Peak learning rate."""
    schedule: ScheduleName = "cosine"
    """Learning rate after the warm-up: half a cosine, warmup-stable-decay (wsd: the
    peak, then a linear decay), or constant. schedule_free has no decay."""
    warmup: float = 0.1
    """Share of all steps spent warming up, in [0, 1)."""
    decay_fraction: float = 0.2
    """wsd: share of all steps at the end in which the rate decays, in (0, 1]."""
    final_fraction: float = 0.1
    """Final learning rate of cosine and wsd as a share of the peak, in [0, 1]."""
    earlier: str = ""
    """Schedules that an extended run followed before; `--resume=RUN --steps=MORE`
    writes them, as UNTIL:STEPS:SCHEDULE:FINAL:DECAY."""
    b1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    b2: float = 0.95
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment: far smaller gradients do not train."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices, multiplied by the learning rate."""
    independent_decay: bool = False
    """Multiply the decay by the schedule alone, not by the peak learning rate."""
    keep_zeros: bool = False
    """Keep weights of the layers' matrices at zero that are zero in the run that
    `--init-from` names, such as one that `python -m lostjax.prune` made."""
    clip: float = 1.0
    """Largest global gradient norm, to which larger ones are scaled (0: no limit)."""
    full_state: str | None = None
    """Pattern of arrays that keep Adam's full state with frugal, galore and muon;
    default: embedding, head and norms. 'embed|head|norm|/(a|b)$' adds LOST's factors.
    """
    frugal: FrugalConfig = FrugalConfig()

    @property
    def smallest_denominator(self) -> float:
        """Epsilon below which gradients do not train; 0 for updates by sign."""
        return 0.0 if self.name == "sign_sgd" else self.eps

    @property
    def refreshes_subspaces(self) -> bool:
        """Whether some steps choose subspaces anew, which costs more than others."""
        return self.name in ("frugal", "galore")


@dataclasses.dataclass(frozen=True)
class ReweightConfig:
    """Weights of rows by their loss. `--objective.reweight=NAME` sets `.name`."""

    name: ReweightName = "none"
    """Rows of a batch that count more, by their loss; the hard half (lin_upper),
    the middle (quadratic), both ends (extremes), or all with a large loss (upper);
    kl_dro by the size of the loss itself, without a limit."""
    temperature: float = 1.0
    """No row counts more than e^(1/temperature) times another of its length; with
    kl_dro, a row counts e times another of its length whose mean loss is this many
    nats smaller."""
    warmup: float = 0.05
    """Share of all steps in which rows count alike, in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """Divergence from past answers. `--objective.trajectory=NAME` sets `.name`."""

    name: TrajectoryName = "none"
    """Past answers to stay near: to the same row (saf), of the average parameters
    (mesa), or of past parameters (lagged). saf stores its answers of some epochs ago;
    mesa keeps a moving average and costs one more forward pass; lagged copies the
    parameters every few steps, and suits text that is seen once."""
    weight: float = 0.3
    """Weight of the divergence, which is scaled by temperature^2 (authors: .3 saf, .8
    mesa). With mesa and 0 the average is only kept and evaluated."""
    temperature: float = 5.0
    """Divides both logits, positive."""
    start: float = 0.0
    """Epoch from which the divergence counts (authors: 5 of 90); may be a fraction."""
    end: float | None = None
    """Epoch from which it no longer counts; none: it counts to the end."""
    lag_epochs: int = 3
    """saf: age of the past answers."""
    top_k: int = 32
    """saf: number of most likely tokens kept per position, with probabilities."""
    decay: float = 0.99
    """mesa: the average reaches back 1 / (1 - decay) steps (authors: .9998), [0, 1)."""
    lag_steps: int = 100
    """lagged: steps between copies."""

    @property
    def keeps_average(self) -> bool:
        """Whether the optimiser keeps a moving average of the parameters."""
        return self.name == "mesa"

    @property
    def remembers_rows(self) -> bool:
        """Whether past answers are stored by row."""
        return self.name == "saf"


@dataclasses.dataclass(frozen=True)
class TokenWeightsConfig:
    """Weights of tokens by how much another run's model is surprised at them."""

    reference: str | None = None
    """Run (a directory, or latest) whose model weighs the tokens: what it expects with
    certainty counts nothing. Its tokenizer must be the same. It is read when the run
    starts, and again whenever it is resumed; it may be moved, but not changed."""
    step: int | None = None
    """Checkpoint of the reference; default its newest."""
    digest: str = ""
    """Hash of the reference's checkpoint. The run writes it, and refuses another one.
    """
    alpha: float = 1.0
    """Exponent of 1 - p in a token's weight, where p is its probability."""
    min_weight: float = 0.0
    """Least weight of a token, in [0, 1], before the mean over its row is made 1."""


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective besides next-token cross entropy."""

    log_partition: float = 0.0
    """Weight of the squared log-partition penalty (PaLM: 1e-4)."""
    label_smoothing: float = 0.0
    """Share of the targets that is spread over all tokens, in [0, 1); the reported loss
    is that of the plain targets."""
    sam_radius: float = 0.0
    """Take the gradient after a step of this norm up the gradient, as SAM does (its
    authors: .05); doubles the work. 0: no SAM."""
    reweight: ReweightConfig = ReweightConfig()
    token_weights: TokenWeightsConfig = TokenWeightsConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()


@dataclasses.dataclass(frozen=True)
class StabilityConfig:
    """Readings that show an instability before the loss does."""

    every: int = 0
    """Steps between readings (RUN/stability.jsonl); 0: none, and no cost."""


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """Updates that are not applied. If the loss or the gradient is not finite, the
    parameters stay as they are and training continues with the next batch. These values
    may change when a run is resumed."""

    patience: int = 10
    """Skipped updates in a row after which the run stops and reports the batch and the
    tensor that went bad first (exit code 3); 0: it never stops."""
    spike: Literal["none", "skip", "rollback"] = "none"
    """Treatment of an update whose loss is far above the recent ones: apply it (none),
    skip it (skip), or return to the last checkpoint and pass over the batches since
    (rollback; at most patience times to one checkpoint)."""
    sigma: float = 6.0
    """Standard deviations above the mean of the recent losses from which a loss is a
    spike, positive."""
    window: int = 100
    """Steps that recent losses reach back, about; the first ones are never spikes."""
    fault: str = ""
    """For tests: batches, counted from 1, that go wrong on purpose, such as
    nan@7,inf@9,gradient@12,spike@15."""


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Several processes. A TPU pod or Slurm provides these values by itself."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """Number of processes."""
    index: int | None = None
    """Index of this process, from 0."""
    wait: int = 300
    """Seconds to wait for the other processes to start."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a language model and report on it."""

    preset: str = "tiny"
    """Named configuration whose values are the defaults."""
    run_dir: str | None = None
    """Directory of the run (default: runs/PRESET-DATE-TIME). If it holds a run with a
    checkpoint, that run is resumed."""
    init_from: str | None = None
    """Start from the parameters of this run (a directory, or latest), to fine-tune its
    model on other text. Model and tokenizer are its own, optimiser and schedule begin
    anew. Other values are the run's too, unless there is --preset or --config."""
    init_step: int | None = None
    """Checkpoint of --init-from; default its newest."""
    mesh: str = "data:-1"
    """Devices by axis, as data:4,fsdp:2,tensor:2; -1: all that remain. data divides the
    batch, fsdp the batch and the parameters, tensor the matrices. A CPU is split into
    this many devices."""
    steps: int = 600
    """Optimiser steps; the learning-rate schedule has the same length. With --resume,
    more steps extend the run."""
    batch_size: int = 16
    """Rows of text in a step."""
    accumulate: int = 1
    """Micro-batches in a step; must divide --batch-size. On a CPU there may be more, so
    that each fits its caches."""
    seed: int = 0
    """Seed of initialisation and data order."""
    eval_every: int | None = None
    """Steps between held-out evaluations (0: only at end; default: a fifth of the
    run)."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always has one."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    sample_prompt: str = "Fellow citizens,"
    """Prompt of the sample at the end."""
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

    @property
    def eval_interval(self) -> int:
        """Steps between held-out evaluations; 0 if there is one at the end alone."""
        every = self.eval_every
        return max(1, self.steps // EVALUATIONS) if every is None else every
