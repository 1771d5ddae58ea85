"""The fairness contract: everything in a run's resolved configuration and environment that can change its result.

Every run writes its contract, a flat dict of scalars, into `summary.json`. Runs with equal contracts may be ranked
against each other; a report shows all others and does not rank them. A contract is built by exclusion: every setting
is in it under its own key, except those that `MAY_DIFFER` lists with the reason, and those that `COUNTED_AS` replaces
by derived keys. A new setting is in the contract unless it is listed here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar, cast

from src.config.renamed import current_key
from src.config.schema import TrainConfig

Scalar = str | int | float | bool | None
Contract = Mapping[str, Scalar]
T = TypeVar("T")

MAY_DIFFER: dict[str, str] = {
    "architecture": "is what is compared",
    "seed": "runs that differ by it alone are replicates",
    "data_order_seed": "runs that differ by it alone are replicates",
    "seeds": "says how many seeds a sweep has",
    "size.name": "is a label; the sizes count",
    "size.seq_len": "is a default; training.seq_len counts",
    "size.global_batch_size": "is a default; training.global_batch_size counts",
    "size.micro_batch_size": "is a default; training.micro_batch_size counts",
    "size.max_tokens": "is a default; training.max_tokens counts",
    "size.learning_rate": "is a default; optimizer.learning_rate counts",
    "recipe.name": "is a label; the parts of the recipe count",
    "runtime.name": "is a label; the settings of the runtime count",
    "runtime.attention": "is the kernel that is faster for the model; all compute the same, up to rounding",
    "runtime.kernels": "is the kernel that is faster for the model; all compute the same, up to rounding",
    "stage.name": "is a label; the stages count",
    "stage.stages.*.prompts": "are continued by the finished stage; nothing is measured on the texts",
    "training.log_every": "says how often metrics are written",
    "training.eval_every": "says how often the validation loss is measured; results are those of the last step",
    "training.checkpoint_every": "says how often checkpoints are saved",
    "training.measured_steps": "is what training.max_seconds came to on this machine",
    "samples": "draw texts from the finished stage",
    "evaluation": "measures the finished stages; evaluation.json holds its settings",
    "verdict": "says how the report judges, alike for all of its runs",
    "tracking": "says where metrics are shown",
    "sweep": "says what happens to jobs that fail",
    "output_root": "is a place",
    "sweep_name": "is a label",
    "rerun": "starts a run again",
    "dry_run": "starts nothing",
}
"""Settings and whole sections that runs of one comparison may differ by, and why."""

COUNTED_AS: dict[str, tuple[str, ...]] = {
    "data": ("data_hash", "data_order_hash", "tokenizer_hash"),
    "data_draws": ("data_draws",),
    "tokenizer": ("data_hash", "data_order_hash", "tokenizer_hash", "reference", "stages"),
    "init_from": ("init_from",),
    "learning_rates": ("learning_rate_search", "search_differences"),
    "optimizer.search": ("learning_rate_search", "optimizer.learning_rate"),
    "optimizer.search_differences": ("search_differences",),
    "optimizer.learning_rate": ("optimizer.learning_rate",),
    "schedule.warmup_steps": ("schedule.warmup_steps", "warmup"),
    "schedule.searched": ("schedule.warmup_steps", "warmup"),
    "stage.stages.*.max_tokens": ("stages", "warmup"),
    "training.max_tokens": ("stages", "warmup"),
    "training.tokens_per_parameter": ("stages", "warmup"),
    "training.max_steps": ("stages", "warmup"),
    "launcher": ("host_shared",),
}
"""Settings and whole sections that count by derived values: the keys of these values."""

DERIVED: dict[str, str] = {
    "reference": "the dense model that all others are matched to: its parameters, FLOPs and vocabulary",
    "stages": "text: each stage's corpus, mixture and budget in steps, tokens and FLOPs of the reference, in order",
    "warmup": "text: steps of each stage's warm-up and their share; null where the budget is time",
    "optimizer.learning_rate": "the peak learning rate; null where each architecture has its own, as searched",
    "schedule.warmup_steps": "null: by default; searched: each architecture has its own",
    "learning_rate_search": "how the learning rate was found; none: not searched; trial: part of a search",
    "search_differences": "what the search for learning rates was made for, where that is not this run; empty: this",
    "tokenizer_hash": "SHA-256 of the tokenizer: loss per token means nothing across tokenizers",
    "data_hash": "fingerprint of the prepared data, every split of every corpus",
    "data_order_hash": "how batches are drawn from the data, seed left out (equal seeds then see equal batches)",
    "data_draws": "one draw of the text for all seeds, or one for each seed of the data with this hash of settings",
    "init_from": "the checkpoint that training started from and its own lineage; null: new weights",
    "torch": "version: kernels and their bugs change results",
    "git_commit": "version of this program: other code may train differently",
    "processes": "that shared each batch (torchrun)",
    "host_shared": "whether other jobs ran on the machine at the same time",
}
"""The keys of a contract that are no setting, or not as it is given, and their meaning."""

FOLLOWS: dict[str, tuple[str, ...]] = {
    "reference": ("size", "recipe", "training.seq_len", "tokenizer_hash"),
    "data_order_hash": ("data_hash", "training.seq_len", "stages"),
    "stage.stages.*": ("stages",),
    "stages": ("size", "recipe", "training.seq_len", "tokenizer_hash"),
    "search_differences": ("size", "recipe", "stage", "stages", "training", "schedule", "data_hash"),
}
"""Keys that are not shown as differences where one that they follow from is shown; of `stages`, the FLOPs follow."""

SPEED_KEYS: tuple[str, ...] = (
    "runtime.compile",
    "runtime.deterministic",
    "runtime.activation_checkpointing",
    "training.micro_batch_size",
    "runtime.device",
    "processes",
    "runtime.parallel",
    "runtime.threads",
    "host_shared",
)
"""Keys that change how long a run takes or its memory but, up to rounding, not what it learns.

Runs that differ in these alone keep their place in the ranking by loss; their times, tokens per second and memory
are not comparable. Every other key decides both.
"""

EACH_SEED = "each_seed"
"""Value of `data_draws`, and the beginning of its description in a contract."""

SEARCHED = "searched"
"""Replaces a warm-up that each architecture has for itself."""

_MISSING = "(missing)"

VERSION_KEYS = ("torch", "git_commit")
"""Versions: they decide whether runs are ranked, but not whether learning rates were searched for the same settings."""

_EARLIER_NAMES = {
    "budget": "training.budget",
    "seq_len": "training.seq_len",
    "document_masking": "training.document_masking",
    "eval_sequences": "training.eval_sequences",
    "precision": "runtime.precision",
    "compile": "runtime.compile",
    "device": "runtime.device",
    "threads": "runtime.threads",
}


def settings_of(config: TrainConfig) -> dict[str, Scalar]:
    """Return every setting that counts under its own key, by exclusion."""
    left_out: dict[str, object] = {**MAY_DIFFER, **COUNTED_AS}
    return {key: value for key, value in flatten(asdict(config)).items() if is_listed(key, left_out) is None}


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted keys; a list stays a list."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= (
            flatten_settings(cast("dict[str, Any]", value), f"{name}.") if isinstance(value, dict) else {name: value}
        )
    return flat


def flatten(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return nested settings as dotted keys; a list becomes JSON."""
    flat = flatten_settings(values)
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in flat.items()}


def is_listed(key: str, table: Mapping[str, T]) -> T | None:
    """Return the entry of a table for a key, or for a section that contains it; None if there is none.

    A `*` in the table matches any name of a stage.
    """
    parts = key.split(".")
    if parts[:2] == ["stage", "stages"]:
        parts[2:3] = ["*"]
    sections = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return next((table[section] for section in sections if section in table), None)


def with_current_names(contract: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a contract of any version with the current names."""
    return {_EARLIER_NAMES.get(key, current_key(key)): value for key, value in contract.items()}


def search_differences(search: Contract, run: Contract) -> list[str]:
    """List the differences between a search for learning rates and a run that uses it, one line per key.

    A setting that the search's version did not have is none, if the run has its default: what was done before.
    """
    defaults = flatten(asdict(TrainConfig()))
    run = {key: value for key, value in run.items() if key in search or defaults.get(key, _MISSING) != value}
    ignored = {
        *SPEED_KEYS,
        *VERSION_KEYS,
        "runtime.precision",
        *COUNTED_AS["learning_rates"],
        "optimizer.learning_rate",
    }
    if SEARCHED in (search.get("schedule.warmup_steps"), run.get("schedule.warmup_steps")):
        ignored |= {"schedule.warmup_steps", "warmup"}
    return differences({"search": search, "run": run}, ignored)


def differences(contracts: Mapping[str, Contract], ignored: Iterable[str] = ()) -> list[str]:
    """List what differs between which runs, one line per key: `seq_len: 128 (run-a) | 256 (run-b, run-c)`.

    A line whose values are those of the same runs as in the line before does not name them again. ignored: keys that
    are not shown.
    """
    contracts = {run: without_draw(contract) for run, contract in contracts.items()}
    different = dict[str, dict[str, list[str]]]()
    for key in _list_keys(contracts.values()):
        holders: dict[str, list[str]] = {}
        for run, contract in contracts.items():
            holders.setdefault(_format_value(contract, key), []).append(run)
        if len(holders) > 1 and key not in ignored:
            different[key] = holders
    lines, named = list[str](), None
    for key, holders in different.items():
        values, causes = list(holders), dict.fromkeys(is_listed(key, FOLLOWS) or (), True)
        if any(is_listed(other, causes) for other in different):
            values = [re.sub(r", of dense [^ ]+ FLOPs", "", value) for value in values]
            if key != "stages" or len(set(values)) == 1:
                continue
        sides = _differing_parts(values)
        if list(holders.values()) != named:
            named = list(holders.values())
            sides = [f"{value} ({_join_names(runs)})" for value, runs in zip(sides, named, strict=True)]
        lines.append(f"{key}: {' | '.join(sides)}" + (" (matters for speed only)" if key in SPEED_KEYS else ""))
    return lines


def has_own_draw(contract: Contract) -> bool:
    """Return whether each seed has its own draw of the text (`data_draws`)."""
    return str(contract.get("data_draws")).startswith(EACH_SEED)


def without_draw(contract: Contract) -> Contract:
    """Leave out the hashes of one draw of the text, if each seed has its own."""
    if not has_own_draw(contract):
        return contract
    return {key: value for key, value in contract.items() if key not in COUNTED_AS["data"]}


def comparable_groups(contracts: Mapping[str, Contract], speed: bool = False) -> list[list[str]]:
    """Group the runs whose contracts are equal, in the order of first appearance.

    speed: whether `SPEED_KEYS` have to be equal too, as comparing times requires.
    """
    contracts = {run: without_draw(contract) for run, contract in contracts.items()}
    keys = [key for key in _list_keys(contracts.values()) if speed or key not in SPEED_KEYS]
    groups: dict[tuple[str, ...], list[str]] = {}
    for run, contract in contracts.items():
        groups.setdefault(tuple(_format_value(contract, key) for key in keys), []).append(run)
    return list(groups.values())


def _list_keys(contracts: Iterable[Contract]) -> list[str]:
    """All keys, in order of appearance."""
    return list(dict.fromkeys(key for contract in contracts for key in contract))


def _format_value(contract: Contract, key: str) -> str:
    """The value as text, with a missing key unlike any value."""
    return json.dumps(contract[key], sort_keys=True, default=str) if key in contract else _MISSING


def _differing_parts(values: list[str]) -> list[str]:
    """Leave out what texts such as `name: adamw, learning_rate: 0.003` have in common, and shorten hashes."""
    parts = [re.split(r", (?=[\w ]+: )", value.strip('"')) for value in values]
    if len({len(split) for split in parts}) > 1:
        return [_shorten_hash(", ".join(split)) for split in parts]
    unlike = [index for index, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    return [", ".join(_shorten_hash(split[index]) for index in unlike) for split in parts]


def _shorten_hash(text: str) -> str:
    is_hash = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if is_hash else text


def _join_names(runs: list[str]) -> str:
    return ", ".join(runs) if len(runs) <= 3 else f"{runs[0]}, {runs[1]} and {len(runs) - 2} more"
