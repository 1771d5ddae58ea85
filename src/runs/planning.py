"""Plan runs: compose and check settings, find or prepare data, name the run folder."""

import glob
import json
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tokenizers import Tokenizer
from tqdm import tqdm

from src.cli.command_line import SINGLE_RUN, format_argument, given_keys
from src.cli.compose import compose_config
from src.cli.validation import validate
from src.config.checks import check_settings
from src.config.comparability import EACH_SEED
from src.config.renamed import current_key, rename_keys
from src.config.schema import FROM_PATHS, TASK, DataConfig, PlanConfig, TokenizerConfig, TrainConfig, UserError
from src.data.dataset import Data, PreparedData, find_data
from src.data.document import GENERATED
from src.data.loader import build_loader, eval_windows
from src.data.preparation.prepare import prepare_data
from src.data.tokenizer.bpe import count_ids, encode, load_tokenizer
from src.model.size_matching import match_config
from src.runs.resource_check import check_disk, check_memory
from src.runs.run_id import IGNORED_SETTINGS, run_name
from src.runs.tuned_learning_rates import with_search_differences, with_tuned_rate
from src.runtime.atomic_files import file_sha256, read_json, read_yaml

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo

P = ParamSpec("P")
T = TypeVar("T")
CheckStages = Callable[[PreparedData, PlanConfig, int], None]
"""`check_stages`, or what `call_once` makes of it for many jobs."""
LENGTH = ("max_tokens", "max_steps", "max_seconds")
"""Settings of the length of training."""


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    config: TrainConfig
    data: Data
    init: "CheckpointInfo | None"
    folder: Path


def plan_runs(jobs: list[list[str]]) -> list[Plan]:
    """Plan a run for each list of overrides; all are checked before any data is prepared.

    Raises:
        UserError: a configuration is invalid, or its data is not prepared.
    """
    checked, find_data, check = check_jobs(jobs), call_once(_find_data), call_once(check_stages)
    data = [find_data(config.data, config.tokenizer, config.output_root) for config, _ in checked]  # has own progress
    found = [(*job, each) for job, each in zip(checked, data, strict=True)]
    return [make_plan(*job, check) for job in show_progress(found, "Planning jobs")]


def call_once(action: Callable[P, T]) -> Callable[P, T]:
    """Return `action` with a cache for equal arguments: the jobs of a sweep share most of their settings.

    The text of the arguments is the key, because settings cannot be hashed.
    """
    results: dict[str, T] = {}

    def cached(*args: P.args, **kwargs: P.kwargs) -> T:
        key = repr((args, kwargs))
        if key not in results:
            results[key] = action(*args, **kwargs)
        return results[key]

    return cached


def check_jobs(jobs: list[list[str]]) -> "list[tuple[TrainConfig, CheckpointInfo | None]]":
    """Compose all jobs and check what needs no data. Raises: UserError."""
    return [check_job(overrides) for overrides in show_progress(jobs, "Checking jobs")]


def show_progress(items: Collection[T], description: str) -> Iterable[T]:
    """Show a progress bar on standard error for loops over jobs that take more than a second."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(items, description, unit="job", delay=1.0, mininterval=interval, leave=False)


def check_job(overrides: list[str]) -> "tuple[TrainConfig, CheckpointInfo | None]":
    """Compose a job and check what needs no data. Raises: UserError."""
    config, init = compose_config(TrainConfig, "train", overrides), None
    check_settings(config)
    check_data_keys(overrides)
    config = with_own_draw(config, overrides)
    if config.init_from is not None and config.learning_rates:
        raise UserError(f"learning_rates={config.learning_rates}: init_from brings the rate of its run; leave one out")
    if config.init_from is not None:
        from src.runs.warm_start import inherit_settings  # imports torch

        config, init = inherit_settings(config, overrides)
    elif config.learning_rates:
        config = with_tuned_rate(config, overrides)
    validate(config)
    if config.data.dir is None:  # otherwise the data determine the corpora and the vocabulary
        check_corpora(config, [*config.data.corpora])
        check_memory(config, match_config(config).spec)
    if init is not None:
        config = with_tokenizer_of_weights(config, init, overrides)
    runtime = config.runtime
    needs_device = runtime.precision == "fp16" or runtime.tf32
    needs_device |= runtime.attention == "flex" or runtime.kernels == "fla"
    if runtime.device not in ("auto", "cpu") or needs_device:
        from src.runtime.device import open_device  # imports torch

        open_device(config.runtime)
    return config, init


def check_data_keys(overrides: list[str]) -> None:
    """Check that no data setting accompanies `data.dir`, whose data is prepared. Raises: UserError."""
    given = given_keys(overrides)
    if "data.dir" not in given or SINGLE_RUN in overrides:  # a job of a sweep has both
        return
    for override in overrides:
        (key,) = given_keys([override])
        if key != "data.dir" and key.split(".")[0] in ("data", "tokenizer"):
            raise UserError(f"{override}: has no effect, since data.dir is prepared data; leave one out")


def with_own_draw(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """Give the data the run's seed, with `data_draws=each_seed`. Raises: UserError if it is given another."""
    if config.data_draws != EACH_SEED:
        return config
    given = given_keys(overrides)
    if "data.dir" in given and SINGLE_RUN not in overrides:
        raise UserError(f"data_draws={EACH_SEED}: data.dir is one draw for all seeds; leave one out")
    if "data.seed" in given and config.data.seed != config.seed:
        raise UserError(f"data.seed={config.data.seed}: data_draws={EACH_SEED} takes it from seed; leave one out")
    return replace(config, data=replace(config.data, seed=config.seed))


def with_tokenizer_of_weights(config: TrainConfig, init: "CheckpointInfo", overrides: list[str]) -> TrainConfig:
    """Let text that is not prepared for the weights' tokenizer be prepared with it.

    Raises: UserError for tokenizer=characters, which has only the characters of its own text.
    """
    tokenizer, run = config.tokenizer, str(init.folder.parents[2])
    if tokenizer.path is not None:  # of the run's own text; its file may be gone, and the run has a copy
        tokenizer = replace(tokenizer, path=run)
    found = find_data(config.data, tokenizer, Path(config.output_root).expanduser())
    if config.data.is_task:  # `make_plan` compares its vocabulary
        return config
    if config.data.dir is not None or (found and found.tokenizer_sha256 == init.tokenizer_sha256):
        return replace(config, tokenizer=tokenizer)
    if tokenizer.kind == "characters":
        if any(key.split(".")[0] == "data" for key in given_keys(overrides)):
            raise UserError(
                f"data={config.data.name}: init_from={config.init_from} has tokenizer=characters, which has only the "
                "characters of its own text; leave out the data, or train without init_from"
            )
        return config
    unused = {key: getattr(TokenizerConfig, key) for key in ("code_share", "pattern")}
    size = count_ids(load_tokenizer(Path(run) / "tokenizer.json"))  # a model may have more, to round its table up
    return replace(config, tokenizer=replace(tokenizer, path=run, vocab_size=size, **unused))


def make_plan(
    config: TrainConfig,
    init: "CheckpointInfo | None",
    data: Data,
    check: CheckStages | None = None,
) -> Plan:
    """Name the run of a job, and check its data and this machine. Raises: UserError."""
    if init is not None and init.tokenizer_sha256 != data.tokenizer_sha256:
        raise UserError(
            f"init_from={config.init_from}: its weights have another tokenizer than {data.location}; "
            "use the data that the run was trained on (data.dir=...)"
        )
    check_corpora(config, data.corpora)
    if isinstance(data, PreparedData):
        vocab_size = max(data.vocab_size, init.spec.vocab_size) if init is not None else data.vocab_size
        (check or check_stages)(data, config.stage, config.training.seq_len)
        config = replace(
            config,
            data=replace(config.data, name=data.name, dir=str(data.folder.resolve())),
            tokenizer=replace(config.tokenizer, vocab_size=vocab_size, kind=data.tokenizer_kind),
        )
    config = with_search_differences(config, data, init)
    weights = None
    if init is not None:
        weights = file_sha256(init.folder / "model.safetensors") if init.is_whole else init.weights_sha256
    folder = Path(config.output_root).expanduser() / "runs" / run_name(config, data.fingerprint, weights)
    check_machine(config, folder)
    return Plan(config, data, init, folder)


def check_corpora(config: TrainConfig, there: Sequence[str]) -> None:
    """Check that the data has the corpora of every stage. Raises: UserError."""
    for name, stage in config.stage.stages.items():
        if missing := [corpus for corpus in stage.corpora if corpus not in there]:
            if TASK in (*missing, *there):
                raise UserError(
                    f"stage={config.stage.name}: its stage {name} trains on {missing[0]}, and data={config.data.name} "
                    f"is {'no task' if TASK in missing else 'a task'}; give stage={there[0]}, or other data"
                )
            raise UserError(
                f"stage={config.stage.name}: its stage {name} needs {missing[0]} text, and the data has only "
                f"{there[0]} text; give stage={there[0]}, or data with both (data.{missing[0]}.paths=[...])"
            )


def check_stages(data: PreparedData, plan: PlanConfig, seq_len: int) -> None:
    """Check that the data is long enough for each stage, and its tokenizer knows the prompts. Raises: UserError."""
    tokenizer = load_tokenizer(data.tokenizer_path)
    for name, stage in plan.stages.items():
        check_prompts(f"stage.stages.{name}.prompts", stage.prompts, tokenizer)
        build_loader(data, stage, seq_len, 0)
        for corpus in stage.corpora:
            eval_windows(data.tokens(corpus, "val"), seq_len, 1, f"the held-out {corpus} text")


def check_prompts(key: str, prompts: list[str], tokenizer: Tokenizer) -> None:
    """Check that a tokenizer can encode the prompts of a stage. Raises: UserError."""
    for prompt in prompts:
        try:
            encode(tokenizer, prompt)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def check_machine(config: TrainConfig, folder: Path) -> None:
    """Check that memory and disk are sufficient. Raises: UserError."""
    spec = match_config(config).spec
    check_memory(config, spec)
    check_disk(config, spec, folder)


def find_run_of_other_length(plan: Plan) -> Path | None:
    """Find a finished run that differs from a planned one only in its length."""
    name = plan.folder.name
    for folder in sorted(plan.folder.parent.glob(f"{glob.escape(name.rpartition('-')[0])}-*")):
        try:
            summary = read_json(folder / "summary.json")
            theirs = rename_keys(read_yaml(folder / "config.yaml"), current_key)
            is_other = summary["status"] == "done" and summary["contract"]["data_hash"] == plan.data.fingerprint
            ours = asdict(plan.config)
            is_other &= any(theirs["training"][key] != ours["training"][key] for key in LENGTH)
            if is_other and _settings_without_length(theirs) == _settings_without_length(ours):
                return folder
        except (UserError, OSError, KeyError, TypeError):  # damaged, or of another version
            continue
    return None


def _settings_without_length(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that determine a run's result, except its length and what a run resolves itself."""
    deciding = {key: value for key, value in values.items() if key not in (*IGNORED_SETTINGS, "runtime")}
    left_out = (*LENGTH, "measured_steps", "micro_batch_size")
    training = {key: value for key, value in deciding["training"].items() if key not in left_out}
    return json.loads(json.dumps(deciding | {"training": training}))


def reject_duplicate_runs(names: list[str]) -> None:
    """Raise UserError if two jobs of a sweep are the same run."""
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{duplicate}: two jobs of the sweep are the same run; drop one of the values")


def _find_data(data: DataConfig, tokenizer: TokenizerConfig, output_root: str) -> Data:
    """Find the data of a job, or prepare it if all of it is here. Raises: UserError if it is to be downloaded first."""
    root = Path(output_root).expanduser()
    if found := find_data(data, tokenizer, root):
        return found
    if is_on_this_machine(data):
        return prepare_data(data, tokenizer, root)
    raise UserError(not_prepared(data, tokenizer, root))


def is_on_this_machine(data: DataConfig) -> bool:
    """Return whether all text is generated or read from local files, so that `train` prepares it itself."""
    return all(corpus.source in GENERATED or corpus.paths for corpus in data.corpora.values())


def not_prepared(data: DataConfig, tokenizer: TokenizerConfig, root: Path) -> str:
    """Return the line that says that data is missing below an output root, and the command that prepares it."""
    settings = [f"data.{name}.paths=[...]" for name, corpus in data.corpora.items() if corpus.source in FROM_PATHS]
    if data.seed != DataConfig.seed:
        settings.append(f"data.seed={data.seed}")
    if tokenizer.path is not None:
        settings.append(format_argument("tokenizer.path", tokenizer.path))
    given = " ".join(settings)
    return (
        f"data={data.name}: not prepared in {root / 'data'}; first run "
        f"python -m src.prepare data={data.name} with the same settings{given and f' ({given})'}"
    )
