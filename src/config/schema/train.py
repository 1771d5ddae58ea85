"""The settings of a training run, and of the commands that take the same."""

from dataclasses import dataclass, field

from src.config.schema.architecture import ArchitectureConfig
from src.config.schema.data import DataConfig, TokenizerConfig
from src.config.schema.evaluation import EvaluationConfig, SamplingConfig, VerdictConfig
from src.config.schema.optimizer import OptimizerConfig, ScheduleConfig
from src.config.schema.recipe import RecipeConfig
from src.config.schema.runtime import LauncherConfig, RuntimeConfig, SweepConfig, TrackingConfig
from src.config.schema.size import SizeConfig
from src.config.schema.stage import PlanConfig
from src.config.schema.training import TrainingConfig
from src.config.setting import LENGTH, SECONDS, SEED, Range, setting

FORMATS = ("text", "json")


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
    match: str = setting(
        "active",
        "Quantity that equals that of dense, without embeddings and head. active: parameters used per token. "
        "total: all parameters. flops: FLOPs per token at the training context. none: sizes as written.",
        choices=("active", "total", "flops", "none"),
    )
    match_grain: int = setting(
        8,
        "Widths of mlps and experts are multiples of this. It holds for dense too, and gives way where a match would "
        "differ by more than 1% (2% above 8). Take 64 for 4 and 8 bit formats, whose blocks are of 32 or 64 numbers.",
        Range(1, 256),
    )
    seed: int = setting(
        0, "Seed of the initial weights, and of the order of the data. data_order_seed replaces it for the order.", SEED
    )
    seeds: str | None = setting(
        None,
        "auto, for a sweep: as many seeds as the verdicts need. Seeds 0, 1 and 2 come first, then more at looks that "
        "are fixed beforehand, until every headline of the report is decided "
        "(src/reporting/statistics/sequential.py).",
        choices=("auto",),
    )
    data_order_seed: int | None = setting(
        None, "Seed of the order of the data. null: `seed`. With both, the two sources of variance are separate.", SEED
    )
    data_draws: str = setting(
        "one",
        "Whether seeds share the split and generated text. one: those of data.seed. each_seed: a run's seed draws them "
        "too, so that the verdict holds for other text of the kind.",
        choices=("one", "each_seed"),
    )
    init_from: str | None = setting(
        None, "Finished run, or checkpoint, to start from. It decides the architecture, size and recipe.", form="path"
    )
    learning_rates: list[str] = setting(
        [],
        "Folders of `python -m src.tune` to take learning rates from. Each architecture and size takes the rate that "
        "was found for it. A size that was not searched takes it by a power law of two or more others.",
        form="path",
    )
    output_root: str = setting("outputs", "Folder for runs, sweeps and data.", form="path")
    sweep_name: str = setting("sweep", "Name of the sweep's folder.", form="name")
    rerun: bool = setting(False, "Start over although the run exists.")
    dry_run: bool = setting(False, "Print jobs, costs and what would not be comparable. Nothing is started or written.")

    @property
    def order_seed(self) -> int:
        """The seed of the order of the data."""
        return self.seed if self.data_order_seed is None else self.data_order_seed


CONTEXTS = [256, 1024, 4096, 16384, 65536]


@dataclass
class EstimateConfig(TrainConfig):
    """`python -m src.estimate`: all that train takes, and how to print what it would cost."""

    format: str = setting("text", "Form of the output. json: one object and nothing else.", choices=FORMATS)
    tokens_per_second: float | None = setting(
        None,
        "Speed to compute times with. null: no times, unless `measured` gives a speed.",
        Range(0, 10**12, above=True, unit="tokens per second"),
    )
    measured: str | None = setting(
        None, "Run directory whose FLOP/s gives the speed, at the FLOPs of this model.", form="path"
    )
    context_lens: list[int] = setting(CONTEXTS, "Contexts at which FLOPs and state are printed.", LENGTH)
    n_devices: int = setting(
        1,
        "GPUs that share each batch. Memory is then that of each of them. They hold the model in shards, unless "
        "runtime.parallel=replicate.",
        Range(1, 4096, unit="GPUs"),
    )


@dataclass
class DemoConfig(TrainConfig):
    """`python -m src.demo`: all that train takes, and the time for the whole comparison."""

    minutes: float = setting(
        10.0,
        "Time for the whole comparison. It lowers training.max_tokens by the speed of this machine.",
        Range(0, 100_000, above=True, unit="minutes"),
    )


@dataclass
class BenchmarkConfig(TrainConfig):
    """`python -m src.benchmark`: all that train takes, which decides the models; nothing is learned."""

    context_lens: list[int] = setting(
        CONTEXTS, "Contexts at which speed and memory are measured. They are used up to the first that is too slow "
        "or too large.", LENGTH,
    )  # fmt: skip
    batch_size: int = setting(
        1,
        "Sequences in prefill and decoding. A training step has as many tokens as a micro batch, and at least one "
        "sequence.",
        Range(1, 2**16, unit="sequences"),
    )
    point_seconds: float = setting(30.0, "Time at one context after which a phase's series ends.", SECONDS)
    peers: bool = setting(
        False,
        "Measure other libraries too, at equal shape. transformers and mambapy (extra [peers]), and in decoding "
        "mlx-lm and llama.cpp (extra [engines]) where they are installed. They alternate with our models.",
    )
    peers_keep_memory: bool = setting(
        True, "Let glibc keep freed memory for them too, as it does for our models. false shows the difference."
    )
    profile: bool = setting(
        False,
        "Profile a training step and a decoded token instead of the series. It prints where time goes, by operator.",
    )
    format: str = setting("text", "Form of the output. json: one object and nothing else.", choices=FORMATS)


@dataclass
class TuneSettings:
    """How learning rates are searched for, alike for every architecture."""

    method: str = setting("grid", "Search method. tpe is Optuna's (extra [tune]).", choices=("grid", "tpe"))
    trials: int = setting(
        5,
        "Rates for each architecture, before the range is extended. With fewer than 3 the best is always at an edge.",
        Range(3, 100, unit="trials"),
    )
    factor: float = setting(
        2.0, "Ratio of neighbors on the grid, whose middle is size.learning_rate.", Range(1, 1e30, above=True)
    )
    extensions: int = setting(4, "Extensions of the range, while a best rate is at its edge.", Range(0, 20))
    warmup: list[int] = setting(
        [],
        "Warm-ups to combine with each rate. Empty: as the schedule has it. A rate that seems too high for an "
        "architecture may only need a longer warm-up.",
        Range(0, 10**12, unit="steps"),
    )
    seeds: list[int] = setting([1000], "Seeds of the trials, which no comparison may use.", SEED)


@dataclass
class TuneConfig(TrainConfig):
    """`python -m src.tune`: all that train takes, and how to search."""

    tune: TuneSettings = field(default_factory=TuneSettings)
