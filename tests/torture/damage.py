"""Damage every kind of file that the product writes, run what reads it, and see that each says so in a line.

A pair of damage and command fails if the command ends in a traceback or a status of its own, hangs, says more or less
than one line of error, or accepts the damage in silence: it opened the file, ended well and named it nowhere.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.torture import forked

CACHES = (".verified.json", ".lock", "train.log", ".log", "optuna.db")
"""Endings of files on which no result rests: they are written again, or only ever appended to."""


def _text(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.unlink()
        path.write_bytes(content)

    return write


def _flip(share: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            content[int(share * len(content))] ^= 0x15
        path.unlink()
        path.write_bytes(content)

    return flip


def _cut(share: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: int(share * len(content))])

    return cut


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def _link_elsewhere(path: Path) -> None:
    target = path.parent / f"moved-{path.name}"
    path.rename(target)
    path.symlink_to(target)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": _text(b""),
    "cut to a half": _cut(0.5),
    "cut at its end": _cut(0.98),
    "flipped early": _flip(0.1),
    "flipped late": _flip(0.8),
    "{}": _text(b"{}"),
    "[]": _text(b"[]"),
    "null": _text(b"null"),
    "a text": _text(b'"text"'),
    "a number": _text(b"7"),
    "nested": _text(b"[" * 100_000),
    "nested objects": _text(b'{"a":' * 100_000),
    "long number": _text(b'{"format_version": ' + b"9" * 5000 + b"}"),
    "infinite": _text(b'{"format_version": 1e999}'),
    "not UTF-8": _text(b'{"run": "\xff\xfe"}'),
    "a folder": _folder,
    "a dangling link": _dangling_link,
    "a link": _link_elsewhere,
}


def mutated(path: Path, draw: random.Random) -> str | None:
    """Change one value within a JSON file, with no digest to give it away; return what was done, or None."""
    try:
        content: Any = read_json(path)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    content.pop("record_sha256", None)
    place, keys = content, list[str]()
    while isinstance(place, dict) and place:
        key = draw.choice(sorted(place))
        keys.append(key)
        if not isinstance(place[key], dict) or not place[key] or draw.random() < 0.3:
            break
        place = place[key]
    if not keys:
        return None
    value = draw.choice([None, [], {}, "text", -1, 1e308, True, "../../x", "=1+1", "\x1b[2J", ["a"], "removed"])
    if value == "removed":
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.unlink()
    path.write_text(json.dumps(content))
    return f"{'.'.join(keys)}={value!r}"


@dataclass
class Site:
    """An output root with something of every kind, and the commands that read it."""

    root: Path

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def data(self) -> Path:
        return next(path for path in (self.outputs / "data").iterdir() if path.is_dir() and path.name[0] != ".")

    def run_of(self, seed: int) -> Path:
        return next((self.outputs / "runs").glob(f"dense-*-s{seed}-*"))

    @property
    def sweep(self) -> Path:
        return next((self.outputs / "sweeps").iterdir())

    @property
    def tuning(self) -> Path:
        return next((self.outputs / "tuning").iterdir())

    def train(self, *more: str) -> list[str]:
        return tiny.command_line(self.data, self.outputs, "stage=full", "training.max_steps=2", *more)

    def commands(self) -> dict[str, tuple[str, list[str]]]:
        """Name each command that reads, with its arguments."""
        done, stopped = self.run_of(0), self.run_of(9)
        made = self.root / "made"
        return {
            "train again": ("train", self.train("seed=0")),
            "go on": ("train", self.train("seed=9")),
            "start from": ("train", self.train(f"init_from={done}", "stage=code", "training.max_steps=1")),
            "preview": ("train", self.train("seed=0,1,9", "dry_run=true", "-m")),
            "sweep again": ("train", self.train("seed=0,1", "-m", "sweep.live=false")),
            "use rates": ("train", self.train(f"learning_rates=[{self.tuning}]", "dry_run=true")),
            "evaluate": ("evaluate", [f"run={done}", "threads=1", *tiny.EVALUATION]),
            "generate": ("generate", [f"run={done}", "prompt=Once", "max_new_tokens=2", "threads=1"]),
            "generate live": ("generate", [f"run={stopped}", "prompt=Once", "max_new_tokens=2", "threads=1"]),
            "report sweep": ("report", [f"dir={self.sweep}"]),
            "report runs": ("report", [f"dir={self.outputs}"]),
            "report run": ("report", [f"dir={done}"]),
            "report tuning": ("report", [f"dir={self.tuning}"]),
            "keep": ("report", [f"dir={self.sweep}", f"publish_to={made / 'kept'}"]),
            "report kept": ("report", [f"dir={self.root / 'kept'}"]),
            "export": ("export", [f"run={done}", "format=huggingface", f"out={made / 'export'}"]),
            "import": ("export", [f"source={self.root / 'export'}", "format=ours", f"out={made / 'import'}"]),
            "estimate": ("estimate", [f"measured={done}", "size=nano"]),
        }

    def files(self) -> list[Path]:
        """List one file of each kind that commands read, relative to the root."""
        kinds: dict[str, Path] = {}
        places = [self.run_of(0), self.run_of(9), self.sweep, self.tuning, self.root / "kept", self.root / "export"]
        for number, place in enumerate([*places, self.data]):
            for file in sorted(path for path in place.rglob("*") if path.is_file()):
                if "report" in file.relative_to(place).parts:
                    continue
                relative = file.relative_to(place)
                kind = "/".join("*" if part.startswith(("dense-", "moe-")) else part for part in relative.parent.parts)
                name = "*" + "".join(file.suffixes[-1:]) if file.name.startswith(("dense-", "moe-")) else file.name
                kinds.setdefault(f"{number}/{kind}/{name}", file)
        return [file.relative_to(self.root) for file in kinds.values()]


def build(root: Path) -> Site:
    """Make the output root: data, two finished runs, one that was stopped, a sweep, a search, an export, a copy."""
    prepared = forked.prepare_in_a_fork(root.parent / "text")
    (root / "outputs" / "data").mkdir(parents=True)
    shutil.copytree(prepared, root / "outputs" / "data" / prepared.name)
    site = Site(root)

    def do(command: str, arguments: list[str], status: int = 0) -> None:
        ended = forked.run(command, arguments, seconds=300)
        assert ended.status == status, ended.said

    do("train", site.train("seed=0,1", "-m", "sweep.live=false"))
    do("train", site.train("seed=9", "training.max_steps=2"))
    _stop(site.run_of(9))
    do("tune", site.train("tune.trials=3", "tune.extensions=0", "sweep.live=false", "stage=language"))
    do("report", [f"dir={site.sweep}", f"publish_to={root / 'kept'}"])
    do("export", [f"run={site.run_of(0)}", "format=huggingface", f"out={root / 'export'}"])
    return site


def _stop(run: Path) -> None:
    """Have a finished run look as if it had been stopped after its first stage."""
    stages = read_json(run / "summary.json")["stages"]
    tiny.change_summary(run, status="interrupted", stages={"language": stages["language"]})


@dataclass(frozen=True)
class Case:
    """A damage to a file, and a command that is run on it."""

    file: Path
    damage: str
    command: str


def cases(site: Site, seed: int) -> list[Case]:
    """List every pair of damage and command, in a random order that begins with one damage of each file."""
    draw = random.Random(seed)
    damages = [*DAMAGES, *(f"mutated {number}" for number in range(6))]
    found = [
        Case(file, damage, command)
        for file in site.files()
        for damage in damages
        if not damage.startswith("mutated") or file.suffix == ".json"
        for command in site.commands()
    ]
    draw.shuffle(found)
    return found


def copy_of(site: Site, folder: Path) -> Site:
    """Copy an output root by hard links: a damage replaces a file, and a command never writes into one."""
    shutil.copytree(site.root, folder, copy_function=os.link, symlinks=True)
    for log in [*folder.rglob("*.log"), *folder.rglob("metrics.jsonl"), *folder.rglob(".lock")]:  # appended to
        content = log.read_bytes()
        log.unlink()
        log.write_bytes(content)
    return Site(folder)


def verdict(case: Case, ended: forked.Ended, damaged: Path, report: str) -> str | None:
    """Return what is wrong with how a command took the damage, or None."""
    if "Traceback (most recent call last)" in ended.said:
        return "traceback"
    if ended.status not in ((0, 1, 2) if case.command == "sweep again" else (0, 2)):
        return f"exit status {ended.status}"
    if "\x1b[2J" in ended.said:
        return "control characters reach the terminal"
    if ended.status == 2 and len(ended.errors) != 1:
        return f"{len(ended.errors)} lines of error"
    named = damaged.name in ended.said or damaged.name in report or damaged.parent.name in "".join(ended.errors)
    if ended.status == 0 and str(damaged) in ended.opened and not named and not damaged.name.endswith(CACHES):
        return "silent acceptance"
    return None


def check(site: Site, case: Case, place: Path, draw: random.Random) -> tuple[str | None, str]:
    """Run one case in a copy of the site; return what is wrong, if anything, and what was said."""
    here = copy_of(site, place)
    damaged, damage = here.root / case.file, case.damage
    command, arguments = here.commands()[case.command]  # before anything of it is missing
    if damage.startswith("mutated"):
        change = mutated(damaged, draw)
        if change is None:
            return "skipped", ""
        damage = change
    else:
        DAMAGES[damage](damaged)
    before = _content(damaged)
    ended = forked.run(command, arguments, watch=here.root)
    if _content(damaged) != before:  # the command has written it again
        ended.opened.discard(str(damaged))
    reports = [file.read_text("utf-8") for file in here.root.rglob("report/summary.md")]
    wrong = verdict(case, ended, damaged, "\n".join(reports))
    if damage == "a link" or case.damage.startswith("mutated"):  # a value that may be right is not refused
        wrong = None if wrong == "silent acceptance" else wrong
    return wrong, f"{case.file} {damage}: {command} {case.command}: status {ended.status}\n{ended.said}"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def torture(site: Site, place: Path, n: int, seed: int = 0, only: str = "") -> Counter[str]:
    """Check so many cases, print what was said where one has a fault, and return how many had which."""
    faults, draw = Counter[str](), random.Random(seed)
    chosen = [case for case in cases(site, seed) if only in f"{case.file} {case.damage} {case.command}"]
    for number, case in enumerate(chosen[:n]):
        wrong, said = check(site, case, place / str(number), draw)
        faults[wrong or "well"] += 1
        if wrong not in (None, "skipped"):
            print(f"{wrong}: {said}", flush=True)
        shutil.rmtree(place / str(number), ignore_errors=True)
    return faults
