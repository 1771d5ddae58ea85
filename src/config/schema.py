"""Every setting of the program, with its type and meaning: the one vocabulary that all other files share.

Values live in `conf/*.yaml`, types and explanations here. Hydra composes the YAML, `compose.py` turns the
result into these plain dataclasses once, and nothing below the commands sees a `DictConfig`.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds src, conf and experiments."""
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"

MISSING: Any = "???"
"""OmegaConf's mark for a value that the YAML has to give."""


@dataclass
class ArchitectureConfig:
    """A pattern of residual blocks, and the settings of the block kinds in it."""

    name: str = MISSING
    pattern: list[str] = field(default_factory=list[str])
    """Block kinds, repeated and cut at `n_blocks`."""
    match_knobs: list[str] = field(default_factory=list[str])
    """The settings that size matching may change, tried in this order; empty for the reference (dense)."""
    n_blocks: int | None = None
    """Residual blocks in the model; null: 2 * size.n_layers, or what matching finds."""

    d_ff: int | None = None
    """Width of the mlp blocks; null: from the size and the recipe, or what matching finds."""

    window: int | None = None
    """Positions that sliding attention sees, itself included; null: a quarter of training.seq_len."""

    n_experts: int = 8
    top_k: int = 2
    """Experts that each token is sent to."""
    expert_d_ff: int | None = None
    """Width of one expert; null: what matching finds (the width of a dense mlp where match=none)."""
    aux_loss_weight: float = 0.01
    """Weight of the load-balancing loss (Switch Transformer, eq. 4; here per layer and divided by top_k)."""
    router_z_loss_weight: float = 0.001
    """Weight of the router z-loss (ST-MoE, eq. 5)."""
    router_bias_rate: float = 0.0
    """Step of the bias that balances experts (Wang et al., 2024, arXiv 2408.15664), 0.001 for one; 0: no bias. For the
    bias alone, set aux_loss_weight=0."""

    d_state: int | None = None
    """State size N; null: 64 a head for mamba (Mamba-2) and 16 a channel for mamba1, or what matching finds."""
    d_conv: int = 4
    """Kernel of the causal convolution before the state-space layer."""
    expand: int = 2
    """d_inner = expand * d_model, unless d_inner is given."""
    d_inner: int | None = None
    """Width of the state-space layer; null: by expand, or what matching finds."""
    chunk_size: int = 64
    """Positions that the state-space layer takes at a time: a matter of speed, never of the result."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """What blocks of your own read, by the names that their KIND lists."""


@dataclass
class SizeConfig:
    """How wide and deep the reference model is, and how one of this size is trained unless told otherwise."""

    name: str = MISSING
    d_model: int = MISSING
    n_layers: int = MISSING
    """Layers of the dense reference; a layer is two residual blocks."""
    head_dim: int = 64
    d_ff: int | None = None
    """Width of the reference's mlp before the recipe's factor; null: 4 * d_model."""
    seq_len: int = MISSING
    """Default of training.seq_len."""
    global_batch_size: int = MISSING
    """Default of training.global_batch_size."""
    micro_batch_size: int = MISSING
    """Default of training.micro_batch_size."""
    max_tokens: int = MISSING
    """Default of training.max_tokens."""
    learning_rate: float = MISSING
    """Default of optimizer.learning_rate."""


@dataclass
class RecipeConfig:
    """The parts that every architecture shares, in one generation of taste."""

    name: str = MISSING
    norm: str = MISSING
    """rmsnorm or layernorm."""
    position: str = MISSING
    """rope, or learned (added to the token embedding wherever the pattern has attention)."""
    mlp: str = MISSING
    """swiglu (width 2/3 d_ff, rounded up to a multiple of 8) or gelu (tanh form)."""
    bias: bool = MISSING
    """Biases in attention, mlp and layernorm; experts, mamba projections and the head have none."""
    max_seq_len: int = 4096
    """Rows of the table of learned positions: the longest context of such a model."""
    tie_embeddings: bool = False
    """The head has the weights of the token embedding (Press and Wolf, 2017), as in GPT-2: fewer parameters."""


@dataclass
class StageConfig:
    """One stage of training."""

    corpus: str = MISSING
    """The part of the data to train on, and to be evaluated by: language or code."""
    max_tokens: int | None = None
    """Budget; null: training.max_tokens."""
    prompts: list[str] = field(default_factory=list[str])
    """Beginnings that the model continues when the stage is over, as samples for the report."""
    learning_rate_scale: float = 1.0
    """Factor on optimizer.learning_rate in this stage."""
    mix: dict[str, float] = field(default_factory=dict[str, float])
    """Shares of other corpora among the sequences, such as {language: 0.25}; the rest is of `corpus`. Each is evaluated
    too, so that what the stage makes the model forget can be seen."""
    branch_of: str | None = None
    """The stage that this one is a branch of: it gives the result of a smaller budget at the price of its decay alone.
    It continues from the step of that stage at which the decay of the smaller budget begins; with schedule=wsd."""
    budget_share: float | None = None
    """Budget of a branch, as a share of the budget of the stage that it is a branch of."""

    @property
    def corpora(self) -> list[str]:
        """All that the stage reads, its own corpus first."""
        return [self.corpus, *self.mix]


@dataclass
class PlanConfig:
    """The stages of a run, in order; each starts from the weights of the one before."""

    name: str = MISSING
    stages: dict[str, StageConfig] = field(default_factory=dict[str, StageConfig])


@dataclass
class HygieneConfig:
    """What code has to be like to be kept, and what is replaced in it (BigCode's practice); stories need none of it."""

    max_document_bytes: int = 200_000
    max_line_length: int = 1000
    """Characters of the longest line; longer ones are data."""
    max_mean_line_length: int = 100
    """Characters of a line on average; more are minified code."""
    min_alphanumeric_share: float = 0.25
    """Letters and digits among the characters."""
    drop_generated: bool = True
    """Leave out files that say in their first lines that a program has written them."""
    drop_near_duplicates: bool = True
    """Leave out what shares most of its words with a document before it."""
    replace_secrets: bool = True
    """Put placeholders in the place of keys, passwords, e-mail and IP addresses."""


@dataclass
class CorpusConfig:
    """Where the documents of one corpus come from."""

    source: str = MISSING
    """stories and scripts (both generated), local, hub, or git (code alone)."""
    paths: list[str] = field(default_factory=list[str])
    """Files, folders and globs, for the local source."""
    extensions: list[str] = field(default_factory=list[str])
    """Which files of a folder belong to the corpus; scripts are found by their shebang too."""
    separator: str | None = None
    """What stands between documents of a file of text; null: `<|endoftext|>`. With a letter in it, it separates
    wherever it stands; without, as `---`, on a line of its own."""
    text_field: str | None = None
    """The field of .jsonl, .json, .parquet and .arrow that is the text; null: `text`, or the one that can be it."""
    max_bytes: int | None = None
    """Stop after this much text (generated sources: generate this much)."""
    repo: str | None = None
    """A data set of the Hugging Face hub, for the hub source, as owner/name."""
    revision: str | None = None
    """Its commit."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """The files to take of it (.txt, .jsonl, .json or .parquet, compressed or not), and the sha256 of each."""
    file_bytes: dict[str, int] = field(default_factory=dict[str, int])
    """The size of each file, where it is known: a download of another size is refused before it begins."""
    licence: str | None = None
    """What they are under; recorded with every document."""
    max_tokens: int | None = None
    """Tokens for training, about: no document is begun after them. Held-out text stays whole."""
    near_duplicates: str = "drop"
    """What becomes of training documents that are near duplicates of held-out ones: drop, report (and keep), or off (do
    not look). Generated text is never looked at."""
    repositories: str | None = None
    """For the git source: a list of conf/repositories by its name, or a YAML file like them."""
    max_documents_per_group: int | None = None
    """For the git source: take so many documents of a repository, chosen by a hash; null: all."""
    licences: list[str] | None = None
    """Which licences of code to keep: SPDX names, `permissive` for all that ask for no more than a notice, or `any`.
    null: permissive for the git source, any for what is your own."""
    hygiene: HygieneConfig = field(default_factory=HygieneConfig)
    sha256: str | None = None
    """For the local source: the SHA-256 of the one file that `paths` names; another file is refused."""


@dataclass
class DataConfig:
    """The text of both stages and its split."""

    name: str = MISSING
    seed: int = 0
    """Seed of generated text and of the split; the seed of training is apart."""
    language: CorpusConfig = field(default_factory=CorpusConfig)
    code: CorpusConfig = field(default_factory=CorpusConfig)
    split: str = "group"
    """group: whole groups of documents (a repository, a package, or a single document) are held out, chosen by a hash.
    position: the first part of each corpus is for training, the next for validation, the last for the test."""
    val_fraction: float = 0.05
    test_fraction: float = 0.05
    """0, with split=position alone: there is no test text, and only validation is reported."""
    dir: str | None = None
    """A folder written by `python -m src.prepare`; null: found by the settings above."""


@dataclass
class TokenizerConfig:
    """A byte-level BPE or an alphabet made from the data, or a tokenizer that is there already."""

    name: str = MISSING
    vocab_size: int = MISSING
    """Tokens of a bpe. With kind=characters the text decides, and this is the most that it may need."""
    code_share: float = 0.5
    """Share of code in the text that it is trained on; the rest is language."""
    path: str | None = None
    """A tokenizer.json of Hugging Face's tokenizers, or a folder with one, to use instead of training one."""
    eot: str | None = None
    """Its token that ends a text; null: what its tokenizer_config.json says, or what is usual."""
    compare: str | None = None
    """Another tokenizer (as `path`), such as GPT-2's, whose figures on held-out text go into the manifest."""
    kind: str = "bpe"
    """bpe, or characters: one token for each character of the prepared text, held-out text included."""


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, 2019), or Muon (Jordan et al., 2024) for matrices with AdamW for the rest."""

    name: str = MISSING
    """adamw or muon."""
    learning_rate: float = MISSING
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    momentum: float = 0.95
    """Of muon's matrices; AdamW has betas."""
    weight_decay: float = 0.1
    """On matrices only: never on norms, biases, embeddings, A_log, D, dt_bias."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    search: str = "none"
    """How the learning rate was found; set by `learning_rates`."""
    search_differences: list[str] = field(default_factory=list[str])
    """What the search was made for, where that is not this run; set by `learning_rates`."""


@dataclass
class ScheduleConfig:
    """Learning rate against step, as a factor on the peak; it always ends where the stage ends."""

    name: str = MISSING
    """cosine, linear (both decay from the warm-up on), or wsd (warm-up, stable, linear decay)."""
    warmup_steps: int | None = None
    """null: a twentieth of the stage, but at least 100 steps, and at most a third of the stage."""
    searched: bool = False
    """Whether `learning_rates` has chosen the warm-up; set by it."""
    min_ratio: float = 0.1
    """Last learning rate over the peak."""
    decay_fraction: float = 0.2
    """wsd: share of the stage that decays."""


@dataclass
class RuntimeConfig:
    """Where and how the arithmetic is done."""

    name: str = MISSING
    device: str = "auto"
    """auto (mps, cuda, cpu: the first there is), mps, cuda or cpu."""
    precision: str = "auto"
    """fp32, bf16 or fp16 (both by autocast, weights stay fp32); auto: bf16 on cuda devices that have it, else fp32."""
    compile: bool = False
    """Train through torch.compile, one graph a kind of block. Tried before the first step: where it fails or is not
    faster, the run says so and goes on without."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more arithmetic."""
    threads: int | None = None
    """CPU threads; null: as many as cores."""


@dataclass
class TrackingConfig:
    """Where metrics are shown; metrics.jsonl in the run directory is always written."""

    name: str = MISSING
    trackers: list[str] = field(default_factory=list[str])
    """Any of wandb and tensorboard."""
    project: str = "advanced-code-model"
    entity: str | None = None
    mode: str = "auto"
    """auto (online with a key, else offline), online or offline."""
    group: str | None = None
    """The sweep that the run belongs to; a sweep sets it."""
    tags: list[str] = field(default_factory=list[str])


@dataclass
class LauncherConfig:
    """How the jobs of a sweep are started."""

    name: str = MISSING
    """serial, joblib, slurm or ray."""
    jobs_at_once: int = 1
    """With joblib."""
    address: str | None = None
    """Of the Ray cluster; auto: the one on this machine."""
    cpus_per_job: int = 1
    """With ray."""


@dataclass
class SweepConfig:
    """What a sweep does with jobs that go wrong, and what it shows meanwhile."""

    timeout: float | None = None
    """Seconds that an attempt at a job may take; then it is asked to save and stop, and counts as failed. null: any."""
    retries: int = 0
    """How many more times a failed job is tried; each goes on from its last checkpoint."""
    skip_diverged: bool = False
    """Do not repeat jobs whose training has diverged for good."""
    fail_fast: bool = False
    """Start no further job once one has failed."""
    live: bool | None = None
    """Show a table of all jobs, kept up to date, instead of their output; null: where the output is a terminal."""


@dataclass
class TrainingConfig:
    """Batches, budget, and how often things happen (in optimizer steps)."""

    seq_len: int = MISSING
    global_batch_size: int = MISSING
    """Sequences per optimizer step."""
    micro_batch_size: int | str = MISSING
    """Sequences per forward pass; gradients accumulate over global_batch_size / micro_batch_size of them. auto: the
    most that fit, found by trying before the first step."""
    budget: str = "tokens"
    """What every architecture is given alike in each stage: tokens (max_tokens), flops (those that dense of the size
    takes for max_tokens), or time (max_seconds). The schedule ends where the budget does."""
    max_tokens: int = MISSING
    """Tokens of each stage."""
    max_seconds: float | None = None
    """Seconds of training steps in each stage, with budget=time: as many steps as fit by a measurement at the start."""
    measured_steps: int | None = None
    """What that measurement said; set by the run."""
    dropout: float = 0.0
    """Share of the embedding, and of what each block adds to the residual stream, that is dropped in training."""
    sampling: str = "epochs"
    """epochs: each window of the training text once an epoch; replacement: every window begins at a random position."""
    document_masking: bool = False
    """Let a position see its own document alone, whatever else is in its window; in evaluation too."""
    max_steps: int | None = None
    """End a stage after so many optimizer steps if that is sooner (with budget=flops: those of dense)."""
    log_every: int = 10
    eval_every: int | None = None
    """null: ten times a stage."""
    eval_sequences: int = 64
    """Validation windows; fixed, and the same for every run on the same data."""
    test_sequences: int = 256
    """Test windows, read once when the run is over: the more, the more documents a verdict is on."""
    checkpoint_every: int | None = None
    """null: ten times a stage."""
    max_bad_steps: int = 20
    """After so many steps in a row whose gradient is not finite, go back to the last checkpoint with half the rate,
    once; then give up."""

    @property
    def micro_batch(self) -> int:
        """`micro_batch_size`, where it is no longer `auto`."""
        assert isinstance(self.micro_batch_size, int)
        return self.micro_batch_size


@dataclass
class SamplingConfig:
    """How text is drawn from a model."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    """0: always the most probable token."""
    top_k: int = 50
    """Draw among so many of the most probable tokens; 0: among all."""
    seed: int = 1


@dataclass
class EvaluationConfig:
    """What is measured on the checkpoints of a run's finished stages, besides loss and bits per byte."""

    enabled: bool = True
    """false: the run ends without, and the test split stays unread."""
    context_factor: int = 4
    """Loss by position is measured up to so many times training.seq_len; 1: not past it."""
    probes: bool = True
    """Copying, induction and recall of random tokens, by distance."""
    probe_sequences: int = 8
    """Sequences a probe and distance."""
    scripts: int = 16
    """Scripts that are drawn for each prompt of a stage on code, and read by bash -n and shellcheck; 0: none."""
    script_tokens: int | None = None
    """Tokens of one at most; null: as many as the training context has."""


@dataclass
class VerdictConfig:
    """What a report says of the results; it changes no run."""

    margin: float | None = None
    """Bits per byte within which two architectures count as equivalent; null: none are called so."""


@dataclass
class TrainConfig:
    """`python -m src.train`."""

    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    stage: PlanConfig = field(default_factory=PlanConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    samples: SamplingConfig = field(default_factory=SamplingConfig)
    """The texts that a run writes after each stage."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    match: str = "active"
    """What is made equal to dense of the same size, embeddings and head aside: active (parameters at work for a token),
    total (all parameters), flops (needed per token at the training context); none: as written."""
    seed: int = 0
    """Initial weights, and the order of the data unless data_order_seed is given."""
    seeds: str | None = None
    """auto, for a sweep: seeds 0, 1 and 2 first, then more at looks that are fixed beforehand, until every headline of
    the report is decided (src/reporting/statistics/sequential.py)."""
    data_order_seed: int | None = None
    """Order of the data alone; null: `seed`. With both, the two sources of variance can be separated."""
    init_from: str | None = None
    """A finished run (or one of its checkpoints) to start from; it decides the architecture, size and recipe."""
    learning_rates: list[str] = field(default_factory=list[str])
    """Folders of `python -m src.tune`: each architecture and size takes the learning rate that was found for it."""
    output_root: str = "outputs"
    sweep_name: str = "sweep"
    rerun: bool = False
    """Start over although the run is there."""
    dry_run: bool = False
    """Tell what the command would do, what it would cost and what would not be comparable; start and write nothing."""

    @property
    def order_seed(self) -> int:
        """The seed of the order of the data."""
        return self.seed if self.data_order_seed is None else self.data_order_seed


@dataclass
class PrepareConfig:
    """`python -m src.prepare`."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    mode: str = "prepare"
    """prepare, or inspect: show what is in data that was prepared with the same settings."""
    documents: int = 2
    """How many documents of each split to show with mode=inspect."""
    output_root: str = "outputs"
    rerun: bool = False
    """Prepare again although it is done."""


@dataclass
class GenerateConfig(SamplingConfig):
    """`python -m src.generate`."""

    run: str = MISSING
    """A run directory, or one of its checkpoints."""
    prompt: str | None = None
    """Taken raw; null with no prompt_file: read from standard input where that is no terminal."""
    prompt_file: str | None = None
    cache: bool = True
    """false: compute the whole sequence anew for every token (slow; the same text)."""
    device: str = "auto"
    threads: int | None = None


@dataclass
class EvaluateConfig:
    """`python -m src.evaluate`."""

    run: str = MISSING
    """A run directory with a finished stage."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    data_dir: str | None = None
    """Its prepared data; null: where they were when it was trained."""
    device: str = "auto"
    threads: int | None = None
    """CPU threads; null: as many as the run had."""
    format: str = "text"
    """text, or json: one object and nothing else."""
    rerun: bool = False
    """Evaluate again although it is done."""


@dataclass
class ReportConfig:
    """`python -m src.report`."""

    dir: str = MISSING
    """A sweep, a run, or a folder of runs."""
    keep: str | None = None
    """A folder to copy to what the report is made of: small, and enough to make it again."""
    against: str | None = None
    """The same runs made again: the report says which of them have the same weights."""
    verdict: VerdictConfig = field(default_factory=VerdictConfig)


@dataclass
class ExportConfig:
    """`python -m src.export`."""

    format: str = MISSING
    """huggingface: a folder that transformers loads, of `run`; ours: a run directory, of such a folder (`source`)."""
    run: str | None = None
    """A run directory, or one of its checkpoints."""
    source: str | None = None
    """A folder with config.json, model.safetensors and tokenizer.json."""
    out: str = MISSING
    """The folder to write; it must not be there, or be empty."""


@dataclass
class EstimateConfig(TrainConfig):
    """`python -m src.estimate`: all that train takes, and how to tell what it would cost."""

    format: str = "text"
    """text, or json: one object and nothing else."""
    tokens_per_second: float | None = None
    """The speed to reckon with; null: no time, unless `measured` says how fast a run was."""
    measured: str | None = None
    """A run directory: its FLOP/s, at the FLOPs of this model, give the speed."""
    context_lens: list[int] = field(default_factory=lambda: [256, 1024, 4096, 16384, 65536])
    """Where FLOPs and state are told, in tokens."""


@dataclass
class BenchmarkConfig(TrainConfig):
    """`python -m src.benchmark`: all that train takes, which decides the models; nothing is learned."""

    context_lens: list[int] = field(default_factory=lambda: [256, 1024, 4096, 16384, 65536])
    """Where speed and memory are measured, in tokens, until one of them is up."""
    batch_size: int = 1
    """Sequences in prefill and decoding. A training step has as many tokens as a micro batch, one sequence at least."""
    point_seconds: float = 30.0
    """Where a phase would take longer for its turns at a length, its series ends."""
    peers: bool = False
    """Measure transformers and mambapy beside ours, at equal shape, taking turns."""
    peers_keep_memory: bool = True
    """Have glibc keep freed memory in their turns as it does in ours. It would not by itself; false shows that."""
    profile: bool = False
    """Tell where the time of a training step goes, and of a token that is decoded, and what each asks of a device, in
    place of the series."""
    format: str = "text"
    """text, or json: one object and nothing else."""


@dataclass
class TuneSettings:
    """How learning rates are looked for: alike for every architecture."""

    method: str = "grid"
    """grid, or tpe (Optuna's; extra [tune])."""
    trials: int = 5
    """Rates that each architecture is tried with, before the range is extended."""
    factor: float = 2.0
    """Between neighbours on the grid, in the middle of which is size.learning_rate."""
    extensions: int = 4
    """How often the range may be extended, where the best rate of any architecture lies at its edge."""
    warmup: list[int] = field(default_factory=list[int])
    """Steps of warm-up that each rate is tried with; empty: as the schedule has it. A rate that seems too high for an
    architecture may only want a longer warm-up."""
    seeds: list[int] = field(default_factory=lambda: [1000])
    """Seeds of the trials, which no comparison may use."""


@dataclass
class TuneConfig(TrainConfig):
    """`python -m src.tune`: all that train takes, and how to search."""

    tune: TuneSettings = field(default_factory=TuneSettings)


@dataclass
class DoctorConfig:
    """`python -m src.doctor`."""

    device: str = "auto"
    """auto, mps, cuda or cpu: what is examined."""
    threads: int | None = None
    """CPU threads; null: as many as cores."""
    compile: bool = False
    """Measure torch.compile as well: a minute or two more."""
    format: str = "text"
    """text, or json: one object and nothing else."""


@dataclass(frozen=True)
class ModelSpec:
    """One model, every number decided: what matching solved, what a checkpoint records, what `build` reads."""

    architecture: str
    blocks: tuple[str, ...]
    vocab_size: int
    d_model: int
    head_dim: int
    d_ff: int
    """Width of the mlp blocks as built."""
    expert_d_ff: int
    n_experts: int
    top_k: int
    aux_loss_weight: float
    router_z_loss_weight: float
    window: int
    router_bias_rate: float
    d_state: int
    d_conv: int
    d_inner: int
    chunk_size: int
    norm: str
    position: str
    mlp: str
    bias: bool
    max_seq_len: int
    settings: dict[str, Any]
    """What blocks of your own read."""
    tie_embeddings: bool = False
    """Whether the head has the weights of the embedding; models of earlier versions do not say it."""

    @property
    def n_heads(self) -> int:
        return self.d_model // self.head_dim

    @property
    def n_ssm_heads(self) -> int:
        return self.d_inner // self.head_dim

    @property
    def learned_positions(self) -> int:
        """Rows of the position table: none where no block attends, since a recurrence knows the order by itself."""
        attends = any("attention" in kind for kind in self.blocks)
        return self.max_seq_len if attends and self.position == "learned" else 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelSpec":
        """Read what `to_dict` wrote. Raises KeyError or TypeError where a value is missing or cannot be."""
        typed: dict[str, Any] = {**values, "blocks": tuple(values["blocks"])}
        spec = cls(**typed)
        for item in fields(cls):
            value: Any = getattr(spec, item.name)
            kind: Any = get_origin(item.type) or item.type
            fits = type(value) in ((int, float) if kind is float else (kind,))
            if not fits or (kind is int and value < 1):
                raise TypeError(f"{item.name}: {value!r}")
        return spec


class UserError(ValueError):
    """Something that the user can put right, in one line with key, value and remedy. Commands exit with status 2."""
