"""Damage every kind of file that the program writes, run the commands that read it, and check their error messages.

A pair of damage and command fails if the command ends in a traceback, has an unexpected exit status, hangs, prints more
or less than one error line, or silently accepts the damage: it opened the file, succeeded, and did not name the file.
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


def mutate_json(path: Path, draw: random.Random) -> str | None:
    """Change one value in a JSON file without a digest that detects it; return a description of the change, or None."""
    try:
        content: Any = read_json(path)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    content.pop("record_sha256", None)
    node, keys = content, list[str]()
    while isinstance(node, dict) and node:
        key = draw.choice(sorted(node))
        keys.append(key)
        if not isinstance(node[key], dict) or not node[key] or draw.random() < 0.3:
            break
        node = node[key]
    if not keys:
        return None
    value = draw.choice([None, [], {}, "text", -1, 1e308, True, "../../x", "=1+1", "\x1b[2J", ["a"], "removed"])
    if value == "removed":
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    path.unlink()
    path.write_text(json.dumps(content))
    return f"{'.'.join(keys)}={value!r}"


@dataclass
class Site:
    """An output root with files of every kind, and the commands that read them."""

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
        return tiny.command_line(self.data, self.outputs, "stage=full", "training.max_steps=2", *tiny.EVALUATION, *more)

    def commands(self) -> dict[str, tuple[str, list[str]]]:
        """Return each command that reads files, with its arguments, by name."""
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


def build_site(root: Path) -> Site:
    """Create an output root: data, two finished runs, an interrupted run, a sweep, a search, an export, a copy."""
    prepared = forked.prepare_in_a_fork(root.parent / "text")
    (root / "outputs" / "data").mkdir(parents=True)
    shutil.copytree(prepared, root / "outputs" / "data" / prepared.name)
    site = Site(root)

    def run_command(command: str, arguments: list[str], status: int = 0) -> None:
        result = forked.run(command, arguments, seconds=300)
        assert result.status == status, result.output

    run_command("train", site.train("seed=0,1", "-m", "sweep.live=false"))
    run_command("train", site.train("seed=9", "training.max_steps=2"))
    _mark_interrupted(site.run_of(9))
    run_command("tune", site.train("tune.trials=3", "tune.extensions=0", "sweep.live=false", "stage=language"))
    run_command("report", [f"dir={site.sweep}", f"publish_to={root / 'kept'}"])
    run_command("export", [f"run={site.run_of(0)}", "format=huggingface", f"out={root / 'export'}"])
    return site


def _mark_interrupted(run: Path) -> None:
    """Make a finished run look interrupted after its first stage."""
    stages = read_json(run / "summary.json")["stages"]
    tiny.change_summary(run, status="interrupted", stages={"language": stages["language"]})


@dataclass(frozen=True)
class Case:
    """A damage to a file, and the command to run on it."""

    file: Path
    damage: str
    command: str


def cases(site: Site, seed: int) -> list[Case]:
    """List every pair of damage and command in random order."""
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


def copy_site(site: Site, folder: Path) -> Site:
    """Copy an output root by hard links: damages replace files, and commands never write into existing files."""
    shutil.copytree(site.root, folder, copy_function=os.link, symlinks=True)
    for log in [
        *folder.rglob("*.log"),
        *folder.rglob("metrics.jsonl"),
        *folder.rglob(".lock"),
    ]:  # these are appended to
        content = log.read_bytes()
        log.unlink()
        log.write_bytes(content)
    return Site(folder)


def find_fault(case: Case, result: forked.CommandResult, damaged: Path, report: str) -> str | None:
    """Describe how a command mishandled the damage, or return None."""
    if "Traceback (most recent call last)" in result.output:
        return "traceback"
    if result.status not in ((0, 1, 2) if case.command == "sweep again" else (0, 2)):
        return f"exit status {result.status}"
    if "\x1b[2J" in result.output:
        return "control characters reach the terminal"
    if result.status == 2 and len(result.errors) != 1:
        return f"{len(result.errors)} lines of error"
    named = damaged.name in result.output or damaged.name in report or damaged.parent.name in "".join(result.errors)
    if result.status == 0 and str(damaged) in result.opened and not named and not damaged.name.endswith(CACHES):
        return "silent acceptance"
    return None


def run_case(site: Site, case: Case, workspace: Path, draw: random.Random) -> tuple[str | None, str]:
    """Run one case in a copy of the site; return its fault, if any, and the output."""
    copied_site = copy_site(site, workspace)
    damaged, damage = copied_site.root / case.file, case.damage
    command, arguments = copied_site.commands()[case.command]  # before any of its files is missing
    if damage.startswith("mutated"):
        change = mutate_json(damaged, draw)
        if change is None:
            return "skipped", ""
        damage = change
    else:
        DAMAGES[damage](damaged)
    before = _content(damaged)
    result = forked.run(command, arguments, watch=copied_site.root)
    if _content(damaged) != before:  # the command has rewritten it
        result.opened.discard(str(damaged))
    reports = [file.read_text("utf-8") for file in copied_site.root.rglob("report/summary.md")]
    fault = find_fault(case, result, damaged, "\n".join(reports))
    if damage == "a link" or case.damage.startswith("mutated"):  # a valid changed value is accepted
        fault = None if fault == "silent acceptance" else fault
    return fault, f"{case.file} {damage}: {command} {case.command}: status {result.status}\n{result.output}"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def torture(site: Site, workspace: Path, n: int, seed: int = 0, only: str = "") -> Counter[str]:
    """Check `n` cases, print the output of those with a fault, and return the number of cases by fault."""
    faults, draw = Counter[str](), random.Random(seed)
    chosen = [case for case in cases(site, seed) if only in f"{case.file} {case.damage} {case.command}"]
    for number, case in enumerate(chosen[:n]):
        fault, output = run_case(site, case, workspace / str(number), draw)
        faults[fault or "well"] += 1
        if fault not in (None, "skipped"):
            print(f"{fault}: {output}", flush=True)
        shutil.rmtree(workspace / str(number), ignore_errors=True)
    return faults
