"""What is published in docs/results makes the same report again, and the documentation says what that report says."""

import re
from html import unescape
from pathlib import Path

import pytest

from src.reporting import load_runs, verdict_lines, write_report

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/sweep.json"))
RESULTS = ROOT / "docs" / "RESULTS.md"
ARCHITECTURE_ROW = re.compile(r"^\| \*{0,2}(?:dense|mamba1?|moe|hybrid|gated\\?_deltanet)\*{0,2} \|.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """summary.md of each published sweep, made again."""
    out = {folder: tmp_path_factory.mktemp(folder.name) for folder in PUBLISHED}
    return {
        folder.name: write_report(folder, path).with_name("summary.md").read_text("utf-8")
        for folder, path in out.items()
    }


def test_there_is_something_published() -> None:
    assert len(PUBLISHED) >= 3


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_all_runs_are_whole_and_by_one_contract(folder: Path) -> None:
    runs = load_runs(folder)
    assert set(runs["status"]) == {"done"}
    assert (runs.groupby("architecture")["seed"].nunique() >= 3).all()
    assert len({contract["git_commit"] for contract in runs["contract"]}) == 1
    assert runs["test_loss"].notna().all()


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_no_place_of_a_machine_is_named(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".md", ".csv", ".html"):
            assert not re.search(r"[\"' ](/(root|home|Users|work|tmp)/)", file.read_text("utf-8")), file


def test_the_page_that_is_published_says_what_would_be_said_today() -> None:
    folder = ROOT / "docs" / "results" / "nano-active"
    page = unescape((folder / "report" / "report.html").read_text("utf-8"))
    assert all(line in page for line in verdict_lines(load_runs(folder)))
    (repeated,) = re.findall(r"^> (.* runs that were made twice .*)$", RESULTS.read_text("utf-8"), re.MULTILINE)
    assert repeated in page


@pytest.mark.parametrize("page", ["README.md", "docs/RESULTS.md"])
def test_documents_give_the_rows_and_the_sentences_of_the_reports(page: str, summaries: dict[str, str]) -> None:
    """Some columns may be left out; none may be changed."""
    made = [cells(row) for summary in summaries.values() for row in ARCHITECTURE_ROW.findall(summary)]
    text = (ROOT / page).read_text("utf-8")
    if page == "README.md":
        text = text[text.index("<!-- result:begin -->") : text.index("<!-- result:end -->")]
    rows = ARCHITECTURE_ROW.findall(text)
    assert rows
    for row in rows:
        assert any(in_order(cells(row), whole) for whole in made), row
    said = {line for folder in PUBLISHED for line in verdict_lines(load_runs(folder))}
    quoted = re.findall(r"^> ((?:nano|micro): .*)$", text, re.MULTILINE)
    assert quoted and set(quoted) <= said, set(quoted) - said


def cells(row: str) -> list[str]:
    return [cell.strip(" *").replace("\\_", "_") for cell in row.strip("|").split("|")]


def in_order(part: list[str], whole: list[str]) -> bool:
    left = iter(whole)
    return all(cell in left for cell in part)
