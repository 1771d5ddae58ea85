"""The runs in docs/results reproduce their report, and the documentation agrees with that report."""

import gzip
import io
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from src.config.formatting import show_count
from src.reporting import answer_lines, draw, load_runs, verdict_lines, write_report
from src.reporting.data.runs import to_records
from src.reporting.output import write
from src.reporting.plots.figure import to_png
from src.reporting.plots.verdict import verdict_chart
from src.reporting.statistics.held_out import held_out_results
from src.reporting.statistics.joint_law import fit_joint_laws, points_of

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/sweep.json"))
LATEST = ROOT / "docs" / "results" / "nano-stories"
"""The comparison that README quotes, with its page."""
LADDER, GENERATED = LATEST.with_name("ladder"), LATEST.with_name("ladder-generated")
RESULTS = ROOT / "docs" / "RESULTS.md"
ARCHITECTURE_ROW = re.compile(
    r"^\| \*{0,2}(?:dense[\w\\]*|mamba1?|moe|hybrid|gated\\?_deltanet|window\\?_attention)\*{0,2} \|.*$", re.MULTILINE
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the reproduced report of each published sweep."""
    out = {folder: tmp_path_factory.mktemp(folder.name) for folder in PUBLISHED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "draw", lambda *_: Figure(figsize=(1, 1)))
        return {folder.name: write_report(folder, path).parent for folder, path in out.items()}


@pytest.fixture(scope="module")
def summaries(reports: dict[str, Path]) -> dict[str, str]:
    """The reproduced summary.md of each published sweep."""
    return {name: (folder / "summary.md").read_text("utf-8") for name, folder in reports.items()}


def test_docs_results_is_not_empty() -> None:
    assert len(PUBLISHED) >= 3


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_all_runs_are_finished_and_comparable(folder: Path) -> None:
    runs = load_runs(folder)
    assert set(runs["status"]) == {"done"}
    assert folder.name.startswith("ladder") or (runs.groupby("architecture")["seed"].nunique() >= 3).all()
    assert len({contract["git_commit"] for contract in runs["contract"]}) == 1
    assert runs["test_loss"].notna().all()


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_no_path_of_a_machine_is_published(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".gz", ".md", ".csv", ".html"):
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            assert not re.search(r"[\"' ](/(root|home|Users|work|tmp)/)", content.decode()), file


def test_published_comparisons_are_small() -> None:
    files = [file for folder in PUBLISHED for file in folder.iterdir() if file.is_file()]
    assert {file.name for file in files} <= {"sweep.json", "learning_rates.json", "runs.json.gz", "metrics.csv.gz"}
    assert sum(file.stat().st_size for file in files) < 2_500_000


def test_the_published_page_is_current() -> None:
    page = unescape((LATEST / "report" / "report.html").read_text("utf-8"))
    runs = load_runs(LATEST)
    assert all(line in page for line in verdict_lines(runs))
    assert all(line.partition(": ")[2] in page for line in answer_lines(runs))


@pytest.mark.slow
def test_the_results_page_has_the_rows_and_sentences_of_the_reports(summaries: dict[str, str]) -> None:
    """Some columns may be left out; none may be changed."""
    made = [cells(row) for summary in summaries.values() for row in ARCHITECTURE_ROW.findall(summary)]
    text = RESULTS.read_text("utf-8")
    rows = ARCHITECTURE_ROW.findall(text)
    assert rows
    for row in rows:
        assert any(in_order(cells(row), whole) for whole in made), row
    said = {line for folder in PUBLISHED for line in verdict_lines(load_runs(folder))}
    quoted = re.findall(r"^> ((?:300k|nano|micro)[:,] .*)$", text, re.MULTILINE)
    assert quoted and set(quoted) <= said, set(quoted) - said


@pytest.mark.parametrize(
    ("folders", "inside", "sentence"),
    [
        (
            (LADDER, *(LATEST.with_name(f"ladder-held-out{name}") for name in ("", "-micro"))),
            8,
            "All 8 losses lie inside",
        ),
        ((GENERATED, GENERATED.with_name("ladder-generated-held-out")), 7, "7 of 8 losses lie inside"),
    ],
    ids=["stories", "generated"],
)
def test_the_results_page_has_the_predictions_of_a_ladder_and_what_came_of_them(
    folders: Sequence[Path], inside: int, sentence: str
) -> None:
    *rungs, held_out = folders
    ladder = pd.concat([load_runs(folder) for folder in rungs], ignore_index=True)
    results = held_out_results(fit_joint_laws(ladder), held_out, load_runs(held_out))
    found = [each for each in results if not each.is_below]
    rows = [
        f"| {each.size} | {each.law.architecture} | {show_count(each.tokens)} | {each.prediction.loss:.4f} | "
        f"{each.prediction.low:.4f} to {each.prediction.high:.4f} | {each.loss:.4f} | {each.error:+.1%} | "
        for each in found
    ]
    text = RESULTS.read_text("utf-8")
    assert len(rows) == 8 and all(row in text for row in rows)
    assert sum(each.is_inside for each in found) == inside and sentence in text


@pytest.mark.parametrize("folder", [LADDER, GENERATED], ids=lambda folder: folder.name)
def test_the_results_page_has_the_losses_of_a_ladder(folder: Path) -> None:
    runs = load_runs(folder)
    text = RESULTS.read_text("utf-8").replace("**", "")
    sizes = {record["active_non_embedding_params"]: record["size"] for record in to_records(runs)}
    for architecture, points in points_of(runs).items():
        for params in {point.params for point in points}:
            losses = [f"{point.loss:.3f}" for point in sorted(points) if point.params == params]
            assert f"| {sizes[params]} | {architecture} | {show_count(params)} | {' | '.join(losses)} |" in text


def test_the_readme_has_the_answer_of_the_published_comparison() -> None:
    """Its sentence is that of the report, and it has no other results."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = text[text.index("<!-- result:begin -->") : text.index("<!-- result:end -->")]
    text = " ".join(text.replace("**", "").split())
    assert not ARCHITECTURE_ROW.search(text)
    runs = load_runs(LATEST)
    (answer,) = answer_lines(runs)
    assert answer in text and settings_of(runs) in text
    assert set(re.findall(r"\d\.\d{3}", text)) <= set(re.findall(r"\d\.\d{3}", answer))


def settings_of(runs: pd.DataFrame) -> str:
    """Write size, tokens and seeds of a comparison of one stage."""
    (size,), (tokens,) = (set(runs[key]) for key in ("size", "language/tokens"))
    active = {f"{count / 1e6:.1f}M" for count in runs["active_non_embedding_params"]}
    (seeds,) = set(runs.groupby("architecture")["seed"].nunique())
    return (
        f"Size {size} ({active.pop()} active parameters without embeddings), {tokens / 1e6:.1f}M tokens of stories "
        f"(stage `language`), {seeds} seeds,"
    )


def test_the_figure_of_the_verdict_is_drawn_from_the_published_runs() -> None:
    """Some pixels may differ, since fonts and libraries do."""
    published = imread(LATEST / "report" / "figures" / "verdict.png")
    drawn = imread(io.BytesIO(to_png(draw(verdict_chart(load_runs(LATEST))))))
    assert published.shape == drawn.shape
    assert (np.abs(published - drawn).max(axis=-1) > 0.25).mean() < 0.002


def cells(row: str) -> list[str]:
    return [cell.strip(" *").replace("\\_", "_") for cell in row.strip("|").split("|")]


def in_order(part: list[str], whole: list[str]) -> bool:
    left = iter(whole)
    return all(cell in left for cell in part)
