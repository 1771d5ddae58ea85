"""The text of `--help`, from the descriptions in the schema."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from src.cli.command_line import no_such_setting
from src.config.schema import CONF, MISSING, TrainConfig, UserError, experiment_files
from src.config.setting import Entry, entries_of, sections_of

WIDTH = 100
"""Columns of the help."""


class Default(NamedTuple):
    """The value of a setting unless a command line gives another."""

    value: Any
    written: str | None = None
    """The text in its YAML file, if it refers to another setting."""
    file: str | None = None
    """The YAML file that gives it; None if the schema does."""


def help_text(header: str, groups: Iterable[str], schema: type) -> str:
    """Return the help of a command: its forms, the choices of groups, and one line for each setting."""
    lines = [header, ""]
    path = {"data": ", or a file, folder or glob of your own"}
    choices = [f"{group}: {', '.join(files_of(CONF / group))}{path.get(group, '')}" for group in groups]
    if issubclass(schema, TrainConfig):
        choices.append(f"+experiment: {', '.join(experiment_files())}")
    if choices:
        lines += ["== Choices, written group=choice ==", "", *(_wrap(line, 2) for line in choices), ""]
    lines += [
        "== Settings, written key=value ==",
        "--help KEY, or a pattern such as --help 'optimizer.*', prints type, range, choices and default.",
    ]
    for section, entries in by_section(entries_of(schema).values()).items():
        lines += ["", *([_wrap(f"{section}: {title_of(schema, section)}", 2)] if section else [])]
        width = max(len(entry.name) for entry in entries) + 4
        lines += [_wrap(f"{'  ' + entry.name:<{width}}{entry.setting.summary}", width) for entry in entries]
    return "\n".join(lines)


def describe(schema: type, patterns: Sequence[str], defaults: Mapping[str, Default]) -> str:
    """Describe the settings that the patterns match. Raises: UserError for a pattern that matches none."""
    entries = entries_of(schema)
    found: dict[str, Entry] = {}
    for pattern in patterns:
        named = {key: entry for key, entry in entries.items() if is_match(key, pattern)}
        if not named:
            raise UserError(f"{pattern}: {no_such_setting(pattern, list(entries))}")
        found |= named
    return "\n\n".join(_describe(entry, defaults) for entry in found.values())


def is_match(key: str, pattern: str) -> bool:
    """Return whether a pattern matches a key or a section above it; a `*` in the key matches any name."""
    return fnmatchcase(key, pattern) or fnmatchcase(pattern, key) or key.startswith(f"{pattern}.")


def _describe(entry: Entry, defaults: Mapping[str, Default]) -> str:
    default = defaults.get(entry.key, Default(entry.default))
    origin = [default.written] if default.written else []
    origin += [f"in {default.file}"] if default.file else []
    rows = {
        "type": entry.type_in_words,
        "range": str(entry.setting.range or ""),
        "choices": ", ".join(entry.setting.choices),
        "default": show_value(default.value) + (f" ({' '.join(origin)})" if origin else ""),
    }
    lines = [_wrap(f"  {name:<9}{text}", 11) for name, text in rows.items() if text]
    return "\n".join([entry.key, _wrap(f"  {entry.setting.meaning}", 2), *lines])


def show_value(value: Any) -> str:
    """Format a value as on a command line."""
    if value == MISSING:
        return "required"
    if isinstance(value, list):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return ", ".join(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {show_value(part)}' for name, part in value.items())}}}"
    return value if isinstance(value, str) and value else json.dumps(value)


def by_section(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Group settings by their section, in order; those without a section come last."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.section, []).append(entry)
    return {section: found[section] for section in sorted(found, key=lambda section: section == "")}


def title_of(schema: type, section: str) -> str:
    """Return the title of a section: the first line of its class."""
    return (dict(sections_of(schema))[section].__doc__ or "").split("\n")[0].rstrip(".")


def files_of(folder: Path) -> list[str]:
    """List the names of the YAML files in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _wrap(line: str, indent: int) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
