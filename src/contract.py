"""What makes two runs comparable: the same text, the same budget and the same rules, whatever the architecture.

Every run writes its contract, a flat dict of scalars, into `summary.json`. Runs with equal contracts may be ranked
against each other; a report shows all others and does not rank them. Two things stay out on purpose: the
architecture, which is what is compared, and the seed, because runs that differ by it alone are replicates.
A key that this file does not list counts as well: a contract can grow without a change here.
"""

import json
import re
from collections.abc import Iterable, Mapping

Scalar = str | int | float | bool | None
Contract = Mapping[str, Scalar]

MEANINGS: dict[str, str] = {
    "size": "name of the size: the reference model that all others are matched to",
    "match": "what was made equal to dense of that size (active, total, flops), or none",
    "recipe": "norm, position, mlp and biases that the architectures share",
    "tokenizer_hash": "SHA-256 of the tokenizer: loss per token means nothing across tokenizers",
    "data_hash": "fingerprint of the prepared data, every split of every corpus",
    "data_order_hash": "how batches are drawn from the data, seed left out (equal seeds then see equal batches)",
    "budget": "what each stage was given alike: tokens, flops or time",
    "stages": "text: each stage's corpus, mix and budget, in order",
    "init_from": "the checkpoint that training started from and its own lineage; null: fresh weights",
    "seq_len": "training context in tokens",
    "global_batch_tokens": "tokens per optimizer step",
    "document_masking": "whether a position sees its own document alone, in training and in evaluation",
    "eval_sequences": "validation windows",
    "optimizer": "text: kind and settings, with the peak learning rate unless it was searched",
    "schedule": "text: shape of the learning rate, which ends where the stage ends",
    "learning_rate_search": "how the learning rate was found; none: not searched; trial: part of a search",
    "precision": "fp32, bf16 or fp16",
    "compile": "whether training went through torch.compile",
    "torch": "version: kernels and their bugs change results",
    "git_commit": "version of this program: other code may train differently",
    "device": "cpu, mps or cuda",
    "processes": "that shared each batch (torchrun)",
    "threads": "CPU threads of each process",
    "host_shared": "whether other jobs ran on the machine at the same time",
}
"""Every key of a contract, and what it says."""

CONTRACT_KEYS: tuple[str, ...] = tuple(MEANINGS)

SPEED_KEYS: tuple[str, ...] = ("compile", "device", "processes", "threads", "host_shared")
"""Keys that change how long a run takes but, up to rounding, not what it learns.

Runs that differ in these alone keep their place in the ranking by loss; their times, tokens per second and memory
are not comparable. Every other key decides both.
"""

_MISSING = "(missing)"


def differences(contracts: Mapping[str, Contract]) -> list[str]:
    """Name, a line a key, what differs between which runs: `seq_len: 128 (run-a) | 256 (run-b, run-c)`."""
    lines: list[str] = []
    for key in _keys(contracts.values()):
        holders: dict[str, list[str]] = {}
        for run, contract in contracts.items():
            holders.setdefault(_value(contract, key), []).append(run)
        if len(holders) > 1:
            values = _unlike_parts(list(holders))
            sides = " | ".join(f"{value} ({_some(runs)})" for value, runs in zip(values, holders.values(), strict=True))
            lines.append(f"{key}: {sides}" + (" (matters for speed only)" if key in SPEED_KEYS else ""))
    return lines


def comparable_groups(contracts: Mapping[str, Contract], speed: bool = False) -> list[list[str]]:
    """Group the runs whose contracts are equal, in the order of first appearance.

    speed: whether `SPEED_KEYS` have to be equal too, as a comparison of times needs; without it they may differ.
    """
    keys = [key for key in _keys(contracts.values()) if speed or key not in SPEED_KEYS]
    groups: dict[tuple[str, ...], list[str]] = {}
    for run, contract in contracts.items():
        groups.setdefault(tuple(_value(contract, key) for key in keys), []).append(run)
    return list(groups.values())


def _keys(contracts: Iterable[Contract]) -> list[str]:
    """All keys: the known ones in their order, then the others."""
    present = dict.fromkeys(key for contract in contracts for key in contract)
    return [*(key for key in CONTRACT_KEYS if key in present), *(key for key in present if key not in MEANINGS)]


def _value(contract: Contract, key: str) -> str:
    """The value as text, with a missing key unlike any value."""
    return json.dumps(contract[key], sort_keys=True, default=str) if key in contract else _MISSING


def _unlike_parts(values: list[str]) -> list[str]:
    """Leave out what texts such as `name: adamw, learning_rate: 0.003` have in common, and shorten hashes."""
    parts = [re.split(r", (?=[\w ]+: )", value.strip('"')) for value in values]
    if len({len(split) for split in parts}) > 1:
        return [_short(", ".join(split)) for split in parts]
    unlike = [index for index, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    return [", ".join(_short(split[index]) for index in unlike) for split in parts]


def _short(text: str) -> str:
    is_hash = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if is_hash else text


def _some(runs: list[str]) -> str:
    return ", ".join(runs) if len(runs) <= 3 else f"{runs[0]}, {runs[1]} and {len(runs) - 2} more"
