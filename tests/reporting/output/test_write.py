import csv
import json
import re
from html.parser import HTMLParser

import pytest

from src.config.schema import UserError
from src.reporting import write_report
from src.reporting.data.runs import COLUMNS
from src.reporting.output.write import markdown_table
from src.reporting.tables.table import Column, Table

FIGURES = {"loss_vs_tokens.png", "loss_vs_flops.png", "loss_vs_time.png", "speed.png"} | {
    f"quality_vs_{cost}.png" for cost in ("flops", "memory", "time")
}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every opened tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.mark.images
def test_all_files_are_written(four):
    path = write_report(four.sweep)
    assert path == four.sweep / "report" / "report.html"
    found = {file.relative_to(path.parent).as_posix() for file in path.parent.rglob("*") if file.is_file()}
    assert found == {"report.html", "summary.csv", "summary.md"} | {f"figures/{name}" for name in FIGURES}
    assert all((path.parent / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in FIGURES)


def test_output_folder_and_text_paths_are_accepted(four, tmp_path):
    path = write_report(str(four.sweep), str(tmp_path / "elsewhere"))
    assert path == tmp_path / "elsewhere" / "report.html" and path.exists()
    assert not (four.sweep / "report").exists()


def test_the_csv_has_one_row_per_run(four):
    four.plan("moe-nano-full-s3-0000abcd", "moe", seed=3)
    with (write_report(four.sweep).parent / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS and len(rows) == 5
    dense, pending = rows[0], next(row for row in rows if row["status"] == "pending")
    assert dense["tokens"] == "614400" and dense["total_params"] == "2048576" and dense["error"] == ""
    assert float(dense["language/val_loss"]) == pytest.approx(2.2)
    assert dense["run_dir"] == "../../runs/dense-nano-full-s0-0000abcd"
    assert json.loads(dense["contract"])["training.seq_len"] == 128
    assert pending["val_loss"] == "" and pending["run"] == "moe-nano-full-s3-0000abcd"


def test_the_page_is_self_contained_and_escapes_text(four):
    error = "RuntimeError: <script>alert('x')</script> & more"
    four.add("mamba", seed=1, status="failed", error=error)
    samples = next((four.root / "runs").glob("dense-*")) / "samples" / "language.json"
    samples.write_text(
        json.dumps([{"prompt": "<i>Once</i>", "text": "</pre></div><img src=x onerror=alert(1)>\ud800"}])
    )
    page = Page(write_report(four.sweep).read_text(encoding="utf-8"))
    assert not {"link", "iframe", "img"} & set(page.tags) and page.tags.count("script") == 3
    assert all(link.startswith("#") for link in page.links)
    assert error in page.words and "<i>Once</i></pre></div><img src=x onerror=alert(1)>?" in page.words
    assert "no verdict: 1 seed; at least 3 are needed" in page.words and "entropy floor" in page.words


def test_samples_are_shown_side_by_side(four):
    page = Page(write_report(four.sweep).read_text(encoding="utf-8"))
    section = page.words.split("After the language stage")[1].split("After the code stage")[0]
    places = [section.index(f"<b>{name}</b> & friends") for name in ("dense", "mamba", "moe", "hybrid")]
    assert places == sorted(places) and page.tags.count("pre") == 8


def test_samples_are_of_the_lowest_seed(builder):
    for seed in (2, 1, 3):
        builder.add("dense", seed)
    page = Page(write_report(builder.sweep).read_text(encoding="utf-8"))
    assert "of seed 1" in page.words and "of seed 2" not in page.words


def test_markdown_fences_enclose_any_text(four):
    text = (write_report(four.sweep).parent / "summary.md").read_text(encoding="utf-8")
    assert "````text\nOnce upon a time <b>dense</b> & friends ``` of seed 0\n````" in text
    assert all(f"](figures/{name})" in text for name in FIGURES)
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", text)
    assert "<b>" not in outside and "no verdict: 1 seed" in outside and "| dense | 2.200 |" in outside


def test_markdown_cells_are_escaped():
    table = Table([Column("", "architecture"), Column("code", "loss")], [["a|b<c>`", "1"]], [])
    assert markdown_table(table).splitlines() == [
        "| architecture | code loss |",
        "| :-- | --: |",
        "| a\\|b\\<c\\>\\` | 1 |",
    ]


def test_a_report_of_unfinished_runs_is_written(builder):
    builder.plan("dense-nano-full-s0-0000abcd", "dense")
    assert "pending" in write_report(builder.sweep).read_text(encoding="utf-8")
    builder.add("moe", status="running", stages=())
    builder.add("mamba", status="failed", error="boom", stages=("language",))
    text = write_report(builder.sweep).read_text(encoding="utf-8")
    assert "boom" in text and "no verdict: no run is finished" in text


def test_the_same_directory_gives_the_same_report(four):
    files = ("report.html", "summary.csv", "summary.md", "figures/speed.png")
    folders = [write_report(four.sweep, four.root / name).parent for name in ("first", "second")]
    assert len({tuple((folder / name).read_bytes() for name in files) for folder in folders}) == 1


def test_a_failed_report_keeps_the_old_report(four, monkeypatch):
    page = write_report(four.sweep)
    old = page.read_text(encoding="utf-8")
    figure = page.parent / "figures" / "speed.png"
    picture = figure.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    four.plan("moe-nano-full-s3-0000abcd", "moe", seed=3)
    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write_report(four.sweep)
    assert page.read_text(encoding="utf-8") == old and figure.read_bytes() == picture


def test_no_temporary_file_remains(four):
    assert not [path for path in write_report(four.sweep).parent.rglob("*") if path.name.endswith(".tmp")]


def test_an_empty_folder_writes_no_report(tmp_path):
    with pytest.raises(UserError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
