"""Shell completion: `python -m src --completion bash` prints a script that asks this module for candidates.

It reads the schema and the folders of conf/ alone, which takes 0.2 s: Hydra's own completion composes the
configuration, takes several times as long, and knows neither the choices of settings nor run folders.
"""

import typing
from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path
from types import NoneType

from src.config import schema as schemas
from src.config.schema import CONF, TrainConfig, experiment_files
from src.config.setting import Entry, entries_of

SCRIPTS = Path(__file__).parent / "completions"
SHELLS = tuple(sorted(file.suffix[1:] for file in SCRIPTS.glob("script.*")))
RUNS, SWEEPS, TUNING, DATA = "runs", "sweeps", "tuning", "data"
PLACES = {
    **dict.fromkeys(("run", "init_from", "measured"), (RUNS,)),
    **dict.fromkeys(("dir", "compare_with"), (SWEEPS, TUNING, RUNS)),
    **dict.fromkeys(("data.dir", "data_dir"), (DATA,)),
    "learning_rates": (TUNING,),
}
"""Which folders of the output root a setting is usually chosen from."""
NAMES = ("show", "diff", "remove")
"""Settings whose values are names of runs."""
OWN_FLAGS = ("--help ", "--version ", "--completion ")
SWEEPING = ("train", "estimate")
"""Commands that take -m."""


def script(shell: str) -> str:
    """Return the script for a shell of SHELLS, to be sourced."""
    return (SCRIPTS / f"script.{shell}").read_text(encoding="utf-8")


def complete(line: str, commands: Sequence[str]) -> list[str]:
    """Return the candidates for the last word of a command line that ends at the cursor.

    A candidate ends with a space if nothing can follow in its word.
    """
    *words, current = line.split(" ")
    words, current = [word for word in words if word], current.lstrip("'\"")
    place = next((index for index, word in enumerate(words) if word == "-m"), None)
    if place is None:
        return []
    if place + 1 == len(words):
        return _starting_with(current, ["src ", *(f"src.{command} " for command in commands)])
    module, rest = words[place + 1], words[place + 2 :]
    if module == "src":
        return _starting_with(current, [f"{shell} " for shell in SHELLS] if rest == ["--completion"] else OWN_FLAGS)
    command = module.removeprefix("src.")
    if command not in commands:
        return []
    return _starting_with(current, _Command(command, rest).candidates(current))


def _starting_with(current: str, candidates: Sequence[str]) -> list[str]:
    return [candidate for candidate in dict.fromkeys(candidates) if candidate.startswith(current)]


class _Command:
    """The settings of one command, and what is given of them."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name, self.words = name, words
        self.schema: type = getattr(schemas, f"{name.title()}Config")
        self.entries = {key: entry for key, entry in entries_of(self.schema).items() if "*" not in key}
        sections = dict.fromkeys(key.partition(".")[0] for key in self.entries if "." in key)
        self.groups = [name for name in sections if any((CONF / name).glob("*.yaml"))]
        self.composes = issubclass(self.schema, TrainConfig)
        given = dict(word.split("=", 1) for word in words if "=" in word)
        self.output_root = Path(given.get("output_root", "outputs").strip("'\"")).expanduser()

    def candidates(self, current: str) -> list[str]:
        """Return the candidates for a word."""
        if current.startswith("-"):
            return ["--help ", "--cfg ", *(["-m ", "--multirun "] if self.name in SWEEPING else [])]
        if "--help" in self.words or "-h" in self.words:
            return [f"{key} " for key in self.entries]
        key, sign, value = current.partition("=")
        if sign:
            return [f"{key}={item}" for item in self._values(key, value)]
        return list(self._keys(current))

    def _keys(self, typed: str) -> Iterator[str]:
        """Yield the keys with as many parts as are typed: `training.` stands for all keys of its section."""
        depth = typed.count(".")
        if depth == 0:
            yield from (f"{name}=" for name in self.groups)
            if self.composes:
                yield "+experiment="
        for key in self.entries:
            parts = key.split(".")
            if parts[0] in self.groups and parts[1:] == ["name"]:  # given by the file of the group
                continue
            if len(parts) > depth:
                yield ".".join(parts[: depth + 1]) + ("=" if len(parts) == depth + 1 else ".")

    def _values(self, key: str, typed: str) -> list[str]:
        """Return the values of a key that continue what is typed; of a list or a sweep, its last item."""
        entry = self.entries.get(key)
        is_list = entry is not None and list in {typing.get_origin(kind) for kind in (entry.type, *_kinds(entry))}
        before, item = "", typed
        if is_list or self.composes:
            cut = max(typed.rfind("["), typed.rfind(",")) + 1
            before, item = typed[:cut], typed[cut:]
        opening, closing = ("[" if is_list and not before else "", "]" if is_list else "")
        found = self._items(key, entry, item)
        ends = ["" if value.endswith("/") else f"{closing} " for value in found]
        return [f"{before}{opening}{value}{end}" for value, end in zip(found, ends, strict=True)]

    def _items(self, key: str, entry: Entry | None, typed: str) -> list[str]:
        if key in self.groups:
            return _stems(CONF / key)
        if key == "+experiment" and self.composes:
            return list(experiment_files())
        if entry is None:
            return []
        if key in NAMES:
            return _folders(self.output_root / RUNS, names=True)
        if entry.setting.form == "path":
            usual = [folder for place in PLACES.get(key, ()) for folder in _folders(self.output_root / place)]
            return [path for path in usual if path.startswith(typed)] or _paths(typed, only_folders=key in PLACES)
        kinds = _kinds(entry)
        values = [*entry.setting.choices, *(["true", "false"] if bool in kinds else [])]
        return [*values, *(["null"] if values and NoneType in kinds else [])]


def _kinds(entry: Entry) -> tuple[typing.Any, ...]:
    return typing.get_args(entry.type) or (entry.type,)


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _folders(place: Path, names: bool = False) -> list[str]:
    """Return the folders in a place, those that are hidden or links left out."""
    if not place.is_dir():
        return []
    found = sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    return [path.name if names else str(path) for path in found if not path.name.startswith(".")]


def _paths(typed: str, only_folders: bool) -> list[str]:
    """Return the files and folders whose path begins as typed, folders with a slash at the end."""
    folder, sign, start = typed.rpartition("/")
    place = Path(folder + sign).expanduser()
    found = [path for path in sorted(place.glob(f"{escape(start)}*")) if path.is_dir() or not only_folders]
    hidden = start.startswith(".")
    return [
        f"{folder}{sign}{path.name}{'/' if path.is_dir() else ''}"
        for path in found
        if hidden or not path.name.startswith(".")
    ]
