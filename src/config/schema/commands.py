"""The settings of the commands that train nothing."""

from dataclasses import dataclass, field

from src.config.schema.data import DataConfig, TokenizerConfig
from src.config.schema.evaluation import EvaluationConfig, SamplingConfig, VerdictConfig
from src.config.schema.runtime import DEVICES
from src.config.schema.train import FORMATS
from src.config.setting import BYTES, LENGTH, MISSING, SECONDS, SHARE, THREADS, TOKENS, Range, setting


@dataclass
class PrepareConfig:
    """`python -m src.prepare`."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    mode: str = setting(
        "prepare",
        "What to do. inspect: show what is in data prepared with the same settings.",
        choices=("prepare", "inspect"),
    )
    documents: int = setting(2, "Documents of each split to show with mode=inspect.", Range(0, 10**6, unit="documents"))
    output_root: str = setting("outputs", "Folder for prepared data.", form="path")
    rerun: bool = setting(False, "Prepare again although it is done.")
    dry_run: bool = setting(False, "Print what would be read and written. Nothing is fetched or written.")


@dataclass
class ModelConfig:
    """The model of a command that writes text, and where it computes."""

    run: str = setting(MISSING, "Run directory, or one of its checkpoints.", form="path")
    device: str = setting(
        "auto", "Device. auto: the first that is available, in the order of the choices.", choices=DEVICES
    )
    threads: int | None = setting(None, "CPU threads. null: as many as cores.", THREADS)


@dataclass
class GenerateConfig(SamplingConfig, ModelConfig):
    """`python -m src.generate`."""

    max_new_tokens: int = setting(200, "Tokens to generate.", Range(1, 10**9, unit="tokens"))
    prompt: str | None = setting(
        None, "Text to continue, taken literally. null without prompt_file: read from standard input where that is no "
        "terminal.",
    )  # fmt: skip
    prompt_file: str | None = setting(None, "File with the prompt.", form="path")
    cache: bool = setting(True, "Keep states and keys of earlier tokens. false: slow, with the same text.")


@dataclass
class ChatConfig(SamplingConfig, ModelConfig):
    """`python -m src.chat`."""


@dataclass
class ServeConfig(ModelConfig):
    """`python -m src.serve`."""

    port: int | None = setting(None, "Port on the loopback interface. null: a free one.", Range(1, 65535))
    key: str | None = setting(None, "Key that a client has to send. null: none is needed.")
    max_new_tokens: int = setting(2000, "The most tokens that a request may ask for.", Range(1, 10**6, unit="tokens"))
    max_seconds: float = setting(120.0, "Time after which the texts of an answer end.", SECONDS)


@dataclass
class EvaluateConfig:
    """`python -m src.evaluate`."""

    run: str = setting(MISSING, "Run directory with a finished stage.", form="path")
    tasks: list[str] = setting(
        [],
        "Tasks of lm-eval to score the run on, by name. Those without a download are bash_syntax, bash_idioms and "
        "story_grammar. A report compares runs on the tasks that all have.",
    )
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    data_dir: str | None = setting(
        None, "Prepared data of the run. null: the folder that it was trained on.", form="path"
    )
    device: str = setting(
        "auto", "Device. auto: the first that is available, in the order of the choices.", choices=DEVICES
    )
    threads: int | None = setting(None, "CPU threads. null: as many as the run had.", THREADS)
    format: str = setting("text", "Form of the output. json: one object and nothing else.", choices=FORMATS)
    rerun: bool = setting(False, "Evaluate again although it is done.")
    dry_run: bool = setting(False, "Print what would be measured. Nothing is measured or written.")


@dataclass
class ReportConfig:
    """`python -m src.report`."""

    dir: str = setting(MISSING, "A sweep, a run, or a folder of runs.", form="path")
    publish_to: str | None = setting(
        None, "Folder to copy the report's inputs to. They are small, and enough to make it again.", form="path"
    )
    compare_with: str | None = setting(
        None, "Folder of a repetition of the same runs. The report says which have the same weights.", form="path"
    )
    serve: bool = setting(
        False, "Open a page on this machine that follows a running sweep. It shows jobs, curves, time left and errors."
    )
    port: int | None = setting(None, "Port of serve=true. null: a free one.", Range(1, 65535))
    verdict: VerdictConfig = field(default_factory=VerdictConfig)


@dataclass
class RunsConfig:
    """`python -m src.runs`."""

    output_root: str = setting("outputs", "Folder with the runs and sweeps.", form="path")
    filter: list[str] = setting(
        [],
        "Conditions COLUMN=VALUE for the runs to list. VALUE can contain `*`. best and prune have the same limits.",
    )
    sort: str | None = setting(
        None, "Column to sort the list by. With a - before it, the largest comes first. null: as in a report."
    )
    show: str | None = setting(
        None, "Run to describe. A run is given by its name, the unique beginning of its name, or its path.", form="path"
    )
    diff: list[str] = setting([], "Two runs to compare, by settings and results.", form="path")
    best: str | None = setting(
        None, "Metric by which to find the best finished run, such as val_bits_per_byte. stage/METRIC: of one stage."
    )
    remove: list[str] = setting([], "Runs to remove.", form="path")
    prune: bool = setting(
        False,
        "Remove checkpoint files of finished runs that no command reads. These are the optimizer's state, and all "
        "checkpoints of learning-rate trials.",
    )
    force: bool = setting(False, "Remove runs although a sweep or another run refers to them.")
    confirm: bool = setting(False, "Do what remove or prune says. false: say what would be removed.")


@dataclass
class ExportConfig:
    """`python -m src.export`."""

    format: str = setting(
        MISSING,
        "Format to write. huggingface: a folder that transformers loads, made of `run`. gguf: a file that llama.cpp, "
        "Ollama and LM Studio run, made of `run`. ours: a run directory, made of a folder of transformers (`source`).",
        choices=("huggingface", "gguf", "ours"),
    )
    run: str | None = setting(None, "Run directory, or one of its checkpoints.", form="path")
    source: str | None = setting(None, "Folder with config.json, model.safetensors and tokenizer.json.", form="path")
    out: str = setting(
        MISSING, "Folder to write; of gguf, a file. It must not exist, be empty, or be an earlier export.", form="path"
    )
    dtype: str | None = setting(
        None,
        "Type of the weights. null: f32, exact. huggingface has f32 and bf16; in a gguf file it is that of matrices.",
        choices=("f32", "f16", "bf16", "q8_0"),
    )
    license: str | None = setting(
        None, "License of the model for its card, as the hub names it. An example is apache-2.0. null: none is stated."
    )
    language: list[str] = setting(
        [], "Natural languages of the text for the card, such as [en]. Empty: en for generated stories, else none."
    )
    push: str | None = setting(
        None,
        "Repository of the Hugging Face hub to upload the folder to. OWNER/NAME; it is created, private, if there is "
        "none. The token is that of HF_TOKEN or `hf auth login`, and HF_ENDPOINT names another hub.",
    )


@dataclass
class MachineConfig:
    """A machine to train on."""

    name: str = setting(MISSING, "Name of the machine.", form="name")
    memory_bytes: int | None = setting(None, "Memory that training can use. null: of this machine.", BYTES)
    peak_flops_per_second: float | None = setting(
        None, "Speed of its matrix products. null: of finished runs and benchmarks on this machine.",
        Range(0, 1e21, above=True, unit="FLOP/s"),
    )  # fmt: skip
    utilization: float | None = setting(None, "Share of that speed that training reaches. An assumption.", SHARE)
    device: str = setting("auto", "Kind of device, which decides how much memory attention needs.", choices=DEVICES)
    source: str = setting(MISSING, "Where these figures come from.")


@dataclass
class AdviseConfig:
    """`python -m src.advise`."""

    ladder: list[str] = setting(
        [], "Folders of finished ladders, or of their published reports. Their runs are taken together.", form="path"
    )
    check: list[str] = setting(
        [],
        "Sweeps that the ladder has not seen, to compare with its predictions. Advice is then left out, and runs that "
        "have not finished are predicted.",
        form="path",
    )
    machine: MachineConfig = field(default_factory=MachineConfig)
    hours: float = setting(12.0, "Time to train.", Range(0, 10**6, above=True, unit="hours"))
    text_tokens: int | None = setting(
        None, "Tokens of text that you have. They are read four times at most. null: as many as needed.", TOKENS
    )
    context_len: int = setting(1024, "Context at which the state while generating is given.", LENGTH)
    output_root: str = setting("outputs", "Folder with the runs and benchmarks that say how fast this machine is.",
                               form="path")  # fmt: skip
    format: str = setting("text", "Form of the output. json: one object and nothing else.", choices=FORMATS)


@dataclass
class DoctorConfig:
    """`python -m src.doctor`."""

    device: str = setting("auto", "Device to examine. auto: the first that is available.", choices=DEVICES)
    threads: int | None = setting(None, "CPU threads. null: as many as cores.", THREADS)
    compile: bool = setting(False, "Measure torch.compile as well. It takes a minute or two more.")
    format: str = setting("text", "Form of the output. json: one object and nothing else.", choices=FORMATS)
