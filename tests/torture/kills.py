"""Kill each command that writes just before an operation on files, repeat it, and compare with an undisturbed one.

The course of one training run has a harness of its own, which kills at random instants too
(tests/integration/torture.py).
"""

import hashlib
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.torture import forked
from tests.torture.damage import Site, copy_of

OF_TIME = set(
    "started time pid wall_time_s tokens_per_second peak_memory_bytes metrics progress git_commit sha256".split()
)
"""Keys of records that differ from one time to the next, or from one commit."""
NOT_COMPARED = tuple(".log .png report.html summary.md summary.csv config.yaml .verified.json state.pt".split())
"""Endings of files that hold times, or what a reader makes anew of the others."""


def commands(site: Site) -> dict[str, tuple[str, list[str]]]:
    """Name each command that writes, with its arguments; `rerun=true` is left out when it is repeated."""
    done, out = site.run_of(0), site.root / "out"
    text = site.root.parent / "text" / "text"  # what all copies of a site read
    prepared = [f"data.language.paths=[{text}/stories.txt]", f"data.code.paths=[{text}/scripts]", "data=local"]
    return {
        "prepare": ("prepare", [*prepared, "tokenizer.vocab_size=300", f"output_root={out}"]),
        "start over": ("train", site.train("seed=0", "rerun=true")),
        "evaluate": ("evaluate", [f"run={done}", "threads=1", "rerun=true", *tiny.EVALUATION]),
        "report": ("report", [f"dir={site.sweep}"]),
        "keep": ("report", [f"dir={site.sweep}", f"publish_to={site.root / 'kept'}"]),
        "export": ("export", [f"run={done}", "format=huggingface", f"out={out / 'export'}"]),
        "import": ("export", [f"source={site.root / 'export'}", "format=ours", f"out={out / 'import'}"]),
        "sweep": ("train", site.train("seed=0,2", "-m", "sweep.live=false")),
        "tune": (
            "tune",
            site.train("tune.trials=3", "tune.extensions=0", "sweep.live=false", "stage=language", "size=nano"),
        ),
    }


def described(root: Path) -> dict[str, Any]:
    """Describe every file below a folder, all but times: litter has a name that no other run has."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or path.name.endswith(NOT_COMPARED):
            found[name] = None
        elif path.name == "metrics.jsonl":
            found[name] = tiny.read_untimed_rows(path.parent)
        elif path.suffix == ".json":
            found[name] = _timeless(read_json(path))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in OF_TIME and "_sha256" not in key}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def torture(site: Site, place: Path, n: int, seed: int = 0, only: str = "") -> Counter[str]:
    """Kill so many times, print each difference, and return how many kills had which end."""
    draw = random.Random(seed)
    chosen = [which for which in commands(site) if only in which]
    ends = [_torture_command(which, site, place, -(-n // len(chosen)), draw) for which in chosen]
    return sum(ends, Counter[str]())


def _torture_command(which: str, site: Site, place: Path, kills: int, draw: random.Random) -> Counter[str]:
    found = Counter[str]()
    whole = copy_of(site, place / "here")  # one path for all, since some files hold it
    command, arguments = commands(whole)[which]
    ended = forked.run(command, arguments, seconds=300)
    assert ended.status == 0, f"{which}: {ended.said}"
    wanted = described(whole.root)
    points = sorted(draw.sample(range(ended.operations), min(kills, ended.operations)))
    for point in points:
        shutil.rmtree(place / "here")
        here = copy_of(site, place / "here")
        killed = forked.run(command, arguments, kill_before=point, seconds=300)
        if killed.status != -signal.SIGKILL:  # it had fewer operations this time
            found["not reached"] += 1
            continue
        again = forked.run(command, [item for item in arguments if item != "rerun=true"], seconds=300)
        left = described(here.root) if again.status == 0 else {}
        unequal = [path for path in sorted({*wanted, *left}) if wanted.get(path, "-") != left.get(path, "-")]
        what = f"status {again.status}" if again.status else "differences" if unequal else "well"
        found[what] += 1
        if what != "well":
            print(f"{which}, killed before operation {point} of {ended.operations}: {what} {unequal[:9]}\n{again.said}")
    shutil.rmtree(place / "here")
    return found
