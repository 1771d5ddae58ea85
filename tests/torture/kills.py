"""Kill each writing command before a file operation, repeat it, and compare with an uninterrupted one.

Training runs have their own harness, which also kills at random times (tests/integration/torture.py).
"""

import hashlib
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from src.data.preparation.prepare import SPEED
from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.torture import forked
from tests.torture.damage import Site, copy_site

TIME_KEYS = set(
    "started time pid wall_time_s tokens_per_second checkpoint_time_s peak_memory_bytes metrics progress git_commit "
    "sha256".split()
)
"""Keys of records that differ from one time to the next, or from one commit."""
NOT_COMPARED = tuple(".log .png report.html summary.md summary.csv config.yaml .verified.json state.pt".split())
"""Endings of files that contain times, or caches that readers create from other files."""


def commands(site: Site) -> dict[str, tuple[str, list[str]]]:
    """Return each command that writes files, with arguments, by name; `rerun=true` is removed when it is repeated."""
    finished_run, out = site.run_of(0), site.root / "out"
    text = site.root.parent / "text" / "text"  # the text that all copies of a site read
    prepared = [f"data.language.paths=[{text}/stories.txt]", f"data.code.paths=[{text}/scripts]", "data=local"]
    return {
        "prepare": ("prepare", [*prepared, "tokenizer.vocab_size=300", f"output_root={out}"]),
        "start over": ("train", site.train("seed=0", "rerun=true")),
        "evaluate": ("evaluate", [f"run={finished_run}", "threads=1", "rerun=true", *tiny.EVALUATION]),
        "report": ("report", [f"dir={site.sweep}"]),
        "keep": ("report", [f"dir={site.sweep}", f"publish_to={site.root / 'kept'}"]),
        "export": ("export", [f"run={finished_run}", "format=huggingface", f"out={out / 'export'}"]),
        "import": ("export", [f"source={site.root / 'export'}", "format=ours", f"out={out / 'import'}"]),
        "sweep": ("train", site.train("seed=0,2", "-m", "sweep.live=false")),
        "tune": (
            "tune",
            site.train("tune.trials=3", "tune.extensions=0", "sweep.live=false", "stage=language", "size=nano"),
        ),
    }


def describe_files(root: Path) -> dict[str, Any]:
    """Describe every file below a folder without times; leftover temporary files show as additional names."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name == SPEED:  # measured by preparations that nothing has interrupted
            continue
        if path.is_dir() or path.name.endswith(NOT_COMPARED):
            found[name] = None
        elif path.name == "metrics.jsonl":
            found[name] = tiny.read_untimed_rows(path.parent)
        elif path.suffix == ".json":
            found[name] = _drop_times(read_json(path))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _drop_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_times(item) for key, item in value.items() if key not in TIME_KEYS and "_sha256" not in key}
    return [_drop_times(item) for item in value] if isinstance(value, list) else value


def torture(site: Site, workspace: Path, n: int, seed: int = 0, only: str = "") -> Counter[str]:
    """Kill `n` times, print each difference, and return the number of kills by outcome."""
    draw = random.Random(seed)
    chosen = [which for which in commands(site) if only in which]
    outcomes = [_torture_command(which, site, workspace, -(-n // len(chosen)), draw) for which in chosen]
    return sum(outcomes, Counter[str]())


def _torture_command(which: str, site: Site, workspace: Path, kills: int, draw: random.Random) -> Counter[str]:
    found = Counter[str]()
    uninterrupted = copy_site(site, workspace / "here")  # the same path for all, since some files contain it
    command, arguments = commands(uninterrupted)[which]
    result = forked.run(command, arguments, seconds=300)
    assert result.status == 0, f"{which}: {result.output}"
    expected = describe_files(uninterrupted.root)
    points = sorted(draw.sample(range(result.operations), min(kills, result.operations)))
    for point in points:
        shutil.rmtree(workspace / "here")
        copied_site = copy_site(site, workspace / "here")
        killed = forked.run(command, arguments, kill_before=point, seconds=300)
        if killed.status != -signal.SIGKILL:  # it had fewer operations this time
            found["not reached"] += 1
            continue
        repeated = forked.run(command, [item for item in arguments if item != "rerun=true"], seconds=300)
        remaining = describe_files(copied_site.root) if repeated.status == 0 else {}
        unequal = [
            path for path in sorted({*expected, *remaining}) if expected.get(path, "-") != remaining.get(path, "-")
        ]
        outcome = f"status {repeated.status}" if repeated.status else "differences" if unequal else "well"
        found[outcome] += 1
        if outcome != "well":
            print(f"{which}, killed before operation {point} of {result.operations}: {outcome} {unequal[:9]}")
            print(repeated.output)
    shutil.rmtree(workspace / "here")
    return found
