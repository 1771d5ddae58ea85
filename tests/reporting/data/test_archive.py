"""A published comparison reads like the run folders, and damage to it is a one-line error."""

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from src.config.schema import UserError
from src.reporting import load_metrics, load_runs, publish_runs
from src.reporting.data.archive import METRICS, RUNS, run_folders
from src.reporting.data.problems import damage_lines
from src.runtime import records
from src.runtime.records import digest_lines
from tests.reporting.conftest import SweepBuilder


@pytest.fixture
def published(builder: SweepBuilder, tmp_path: Path) -> Path:
    builder.add("dense")
    builder.add("mamba")
    publish_runs(builder.sweep, load_runs(builder.sweep), tmp_path / "published")
    return tmp_path / "published"


def test_a_publication_adds_two_files_to_the_sweep(published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == [METRICS, RUNS, "sweep.json"]


def test_published_numbers_equal_those_of_the_runs(builder: SweepBuilder, published: Path) -> None:
    before, after = load_metrics(builder.sweep), load_metrics(published)
    place = ["run", "stage", "step"]
    pairs = after.merge(before, on=place, suffixes=("", " before"), validate="one_to_one")
    assert len(pairs) == len(after) > 20
    for column in set(after.columns) - {*place}:
        pd.testing.assert_series_equal(pairs[column], pairs[f"{column} before"], check_names=False)


def test_publishing_twice_gives_the_same_bytes(builder: SweepBuilder, published: Path, tmp_path: Path) -> None:
    publish_runs(builder.sweep, load_runs(builder.sweep), tmp_path / "again")
    for name in (RUNS, METRICS):
        assert (published / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_published_folder_can_be_published_again(published: Path, tmp_path: Path) -> None:
    publish_runs(published, load_runs(published), tmp_path / "again")
    assert (published / METRICS).read_bytes() == (tmp_path / "again" / METRICS).read_bytes()


def test_published_metrics_have_the_digest_of_their_lines(builder: SweepBuilder, tmp_path: Path) -> None:
    """Rows of moe have further values between those that all have."""
    first, second = builder.add("dense"), builder.add("moe")
    for run in (first, second):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        if run is second:
            rows = [{**dict(list(row.items())[:2]), "expert_load": 0.5, **row} for row in rows]
        lines = [json.dumps(row) + "\n" for row in rows]
        (run / "metrics.jsonl").write_text("".join(lines))
        summary = json.loads((run / "summary.json").read_text())
        summary["metrics"] = asdict(digest_lines(lines))
        (run / "summary.json").write_text(json.dumps(summary))
    publish_runs(builder.sweep, load_runs(builder.sweep), tmp_path / "again")
    for folder in (builder.sweep, tmp_path / "again"):
        assert damage_lines(load_runs(folder), folder) == []


def test_what_earlier_versions_published_is_read_and_replaced(builder: SweepBuilder, published: Path) -> None:
    after = load_runs(published)
    (published / "runs.json").write_bytes(gzip.decompress((published / RUNS).read_bytes()))
    (published / RUNS).unlink()
    before = load_runs(published)
    assert len(before) == 2 and list(before["total_params"]) == list(after["total_params"])
    publish_runs(builder.sweep, load_runs(builder.sweep), published)
    assert sorted(path.name for path in published.iterdir()) == [METRICS, RUNS, "sweep.json"]


def test_other_folders_are_read_in_place(builder: SweepBuilder) -> None:
    assert run_folders(builder.sweep) == builder.sweep


def truncate_file(folder: Path) -> None:
    (folder / METRICS).write_bytes((folder / METRICS).read_bytes()[:-20])


def remove_file(folder: Path) -> None:
    (folder / METRICS).unlink()


def replace_by_text(folder: Path) -> None:
    (folder / METRICS).write_bytes(gzip.compress(b"run,stage\nno json,1\n"))


def change_value(folder: Path) -> None:
    text = gzip.decompress((folder / RUNS).read_bytes()).replace(b'"seed": 0', b'"seed": 7')
    (folder / RUNS).write_bytes(gzip.compress(text))


def insert_path(folder: Path) -> None:
    (folder / RUNS).write_bytes(gzip.compress(json.dumps({"runs": {"../../elsewhere": {}}}).encode()))


def truncate_runs(folder: Path) -> None:
    (folder / RUNS).write_bytes((folder / RUNS).read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage", [truncate_file, remove_file, replace_by_text, change_value, insert_path, truncate_runs]
)
def test_damage_is_a_one_line_error(published: Path, damage: Callable[[Path], None]) -> None:
    damage(published)
    with pytest.raises(UserError) as caught:
        load_runs(published)
    assert "\n" not in str(caught.value) and (
        RUNS in str(caught.value) or METRICS in str(caught.value) or "runs" in str(caught.value)
    )


def test_a_too_large_decompressed_file_is_an_error(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError, match="when decompressed"):
        load_runs(published)
