"""The description of a setting: meaning, range, unit, choices. It is declared with the field in the schema.

A field `max_tokens: int = setting(MISSING, "Tokens of each stage.", TOKENS)` carries its description as metadata of a
plain dataclass field, which OmegaConf accepts. `check_settings` (checks.py), `--help` and docs/SETTINGS.md read it.
"""

import copy
import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, NamedTuple, cast

MISSING: Any = "???"
"""OmegaConf's marker for a value that the YAML has to give."""


class Range(NamedTuple):
    """The allowed numbers, both ends included unless `above` or `below` excludes one, and their unit.

    Upper ends are far above what anyone trains with, and below what would hang the program, overflow a number of a
    library or allocate all memory at once.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    unit: str = ""

    def __str__(self) -> str:
        exponent = round(math.log10(self.most)) if self.most else 0
        most = f"10^{exponent}" if exponent > 6 and self.most == float(f"1e{exponent}") else f"{self.most:,}"
        return f"{'above ' if self.above else ''}{self.least:,} {'to below' if self.below else 'to'} {most}"


SEED = Range(0, 2**53 - 1)
"""Integers that JSON, torch and NumPy all represent exactly, with room for the few seeds that follow one."""
WIDTH = Range(1, 2**20)
SEQUENCES = Range(1, 2**20, unit="sequences")
TOKENS = Range(1, 10**15, unit="tokens")
LENGTH = Range(1, 2**24, unit="tokens")
STEPS = Range(1, 10**12, unit="steps")
BYTES = Range(1, 10**15, unit="bytes")
THREADS = Range(1, 512, unit="threads")
SECONDS = Range(0, 10**9, above=True, unit="seconds")
SHARE = Range(0, 1)
POSITIVE_SHARE = Range(0, 1, above=True)
SHARE_BELOW_1 = Range(0, 1, below=True)
FACTOR = Range(0, 10**6, above=True)
RATE = Range(0, 1e30, above=True)
WEIGHT = Range(0, 10**6)


@dataclass(frozen=True)
class Setting:
    """The description of one setting. A list or mapping has that of its values."""

    meaning: str
    """The first sentence is the setting's line in `--help`; `--help KEY` prints all."""
    range: Range | None = None
    choices: tuple[str, ...] = ()
    """The allowed texts; with a range, a number is allowed as well."""
    form: str = ""
    """path: a path; name: a part of a folder's name."""

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return self.meaning.split(". ")[0].removesuffix(".")


def setting(
    default: Any, meaning: str, range: Range | None = None, *, choices: tuple[str, ...] = (), form: str = ""
) -> Any:
    """Declare a dataclass field with its description; a list or dict as default is copied for each object."""
    metadata = {"setting": Setting(meaning, range, choices, form)}
    if type(default) in (list, dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Entry(NamedTuple):
    """A setting at its place in the schema of a command."""

    section: str
    """Empty for a setting that is in no section."""
    key: str
    """Dotted; `*` matches a name that the user chooses."""
    type: Any
    setting: Setting
    default: Any
    """Of the schema; the YAML of a command may have another."""

    @property
    def name(self) -> str:
        return self.key.removeprefix(f"{self.section}.")

    @property
    def allowed(self) -> str:
        """The range and the choices; empty where the type says all."""
        parts = [str(self.setting.range) if self.setting.range else "", ", ".join(self.setting.choices)]
        return ", or ".join(part for part in parts if part)

    @property
    def type_in_words(self) -> str:
        """The type and unit: `whole number of tokens, or null`."""
        kinds = typing.get_args(self.type) or (self.type,)
        collection = {list: "list of {}s", dict: "mapping of names to {}s"}.get(typing.get_origin(self.type), "{}")
        if collection != "{}":
            kinds = kinds[-1:]
        words = [collection.format(self._words(kind)) for kind in kinds if kind is not NoneType]
        unit = f" of {self.setting.range.unit}" if self.setting.range and self.setting.range.unit else ""
        return ", or ".join([words[0] + unit, *words[1:], *(["null"] if NoneType in kinds else [])])

    def _words(self, kind: Any) -> str:
        if typing.get_origin(kind) is list:  # list[str] | None
            return f"list of {self._words(typing.get_args(kind)[0])}s"
        if is_dataclass(kind):
            return "section"
        if kind is str and self.setting.range:
            return " or ".join(self.setting.choices)
        words = {int: "whole number", float: "number", bool: "true or false", str: self.setting.form or "text"}
        return words.get(kind, "value")


def sections_of(schema: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield the schema itself and each section below it, by the dotted key."""
    yield prefix, schema
    for name, hint in typing.get_type_hints(schema).items():
        is_mapping = typing.get_origin(hint) is dict
        kind = typing.get_args(hint)[1] if is_mapping else hint
        if is_dataclass(kind):
            key = f"{prefix}.{name}{'.*' if is_mapping else ''}".lstrip(".")
            yield from sections_of(cast(type, kind), key)


@cache
def entries_of(schema: type) -> dict[str, Entry]:
    """Return each setting of a schema by its key, section after section."""
    found: dict[str, Entry] = {}
    for section, kind in sections_of(schema):
        hints = typing.get_type_hints(kind)
        for item in fields(kind):
            if described := item.metadata.get("setting"):
                key = f"{section}.{item.name}".lstrip(".")
                default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
                found[key] = Entry(section, key, hints[item.name], described, default)
    return found


def choices_of(schema: type, key: str) -> tuple[str, ...]:
    """Return the allowed texts of a setting."""
    return entries_of(schema)[key].setting.choices


def values_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Setting, Any]]:
    """Yield each single value of a configuration with its full key and description; a list has a key for all."""
    for item in fields(config):
        value: Any = getattr(config, item.name)
        key = f"{prefix}{item.name}"
        parts: list[tuple[str, Any]] = [(key, value)]
        if isinstance(value, dict):
            parts = [(f"{key}.{name}", part) for name, part in cast("dict[str, Any]", value).items()]
        elif isinstance(value, list):
            parts = [(key, part) for part in cast("list[Any]", value)]
        for full, part in parts:
            if is_dataclass(part):
                yield from values_of(part, f"{full}.")
            else:
                yield full, item.metadata["setting"], part
