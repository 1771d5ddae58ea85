"""`data=PATH`: every command takes the user's own text, of one corpus or both, and says what is wrong with a path."""

import json
from pathlib import Path

import pytest

from src import estimate, tune
from src.cli.command import run_cli
from src.cli.data_path import expand_data_path
from src.config.schema import UserError
from src.runtime.atomic_files import read_json
from tests.integration import tiny

RUN = [*tiny.SETTINGS, "tokenizer.vocab_size=512", "training.seq_len=16", "evaluation.probes=false"]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write stories.txt and a folder of scripts, and work in their folder."""
    tiny.write_corpus(tmp_path / "text")
    monkeypatch.chdir(tmp_path / "text")
    return tmp_path / "text"


def test_paths_become_the_settings_that_read_them(text: Path) -> None:
    (text / "my story.txt").write_text("text")
    (text / "rows.jsonl").write_text(json.dumps({"text": "a story"}) + "\n")
    (text / "scripts.jsonl").write_text(json.dumps({"text": "#!/bin/sh\nls\n"}) + "\n")
    (text / "tool.py").write_text("print()\n")
    language = ["data=local", "data.language.paths=['stories.txt']", "data.name=stories", "stage=language"]
    for given, expanded in (
        (["data=stories.txt"], language),
        (["data='stories.txt'"], language),
        (["data=stories.txt", "stage=code"], [*language[:-1], "stage=code"]),
        (["data=stories.txt", "data.name=x"], [*language[:2], "stage=language", "data.name=x"]),
        (
            ["data=my story.txt"],
            ["data=local", "data.language.paths=['my story.txt']", "data.name=my_story", "stage=language"],
        ),
        (["data=scripts"], ["data=local", "data.code.paths=['scripts']", "data.name=scripts", "stage=code"]),
        (
            ["data=scripts/*.sh"],
            ["data=local", "data.code.paths=['scripts/*.sh']", "data.name=scripts", "stage=code"],
        ),
        (
            ["data=scripts.jsonl"],
            ["data=local", "data.code.paths=['scripts.jsonl']", "data.name=scripts", "stage=code"],
        ),
        (["data=rows.jsonl"], ["data=local", "data.language.paths=['rows.jsonl']", "data.name=rows", "stage=language"]),
        (
            ["data=tool.py", "data.code.extensions=[.py]"],
            ["data=local", "data.code.paths=['tool.py']", "data.name=tool", "stage=code", "data.code.extensions=[.py]"],
        ),
        (["size=nano", "data=embedded"], ["size=nano", "data=embedded"]),
    ):
        assert expand_data_path(given) == expanded
    (text / "both").mkdir()
    (text / "both" / "story.md").write_text("text")
    (text / "both" / "tool").write_text("#!/bin/bash\nls\n")
    both = ["data=local", "data.language.paths=['both']", "data.code.paths=['both']", "data.name=both", "stage=full"]
    assert expand_data_path(["data=both"]) == both
    assert "stage" not in str(expand_data_path(["data=stories.txt"], has_stages=False))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("stories.text", r"data=stories\.text: no such file or folder"),
        ("/path/x", "data=/path/x: no such file or folder"),
        ("*.nothing", r"data=\*\.nothing: no such file or folder, and no file matches"),
        ("embeded", r"data=embeded: no such choice, file or folder; did you mean embedded\? .*tinystories_bash"),
        ("a.txt,b.txt", "data=a.txt,b.txt: is a single file, folder or glob"),
        ("book.pdf", r"data=book\.pdf: .* no plain text: convert it to \.txt"),
        ("empty", r"data=empty: no text \(\.txt.* and no shell scripts there"),
        ("mixed", r"data=mixed: has both language and code, and mixed/rows\.jsonl may be either; give data=local"),
    ],
)
def test_wrong_paths_are_one_line(value: str, message: str, text: Path) -> None:
    (text / "book.pdf").write_text("%PDF")
    (text / "empty").mkdir()
    (text / "empty" / "photo.png").write_bytes(b"\x89PNG")
    (text / "mixed").mkdir()
    (text / "mixed" / "a.txt").write_text("text")
    (text / "mixed" / "b.sh").write_text("ls")
    (text / "mixed" / "rows.jsonl").write_text(json.dumps({"text": "a story"}) + "\n")
    with pytest.raises(UserError, match=message):
        expand_data_path([f"data={value}"])


def test_a_path_and_paths_contradict(text: Path) -> None:
    with pytest.raises(UserError, match=r"data\.code\.paths: data=stories\.txt names the text already"):
        expand_data_path(["data=stories.txt", "data.code.paths=[scripts]"])


@pytest.mark.slow
def test_one_command_prepares_and_trains_on_language_alone(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is ranked by its own corpus, prepared data is found again, and stage=full says what is missing."""
    assert tiny.train_main(["data=stories.txt", f"output_root={tmp_path / 'out'}", *RUN]) == 0
    (prepared,) = [folder for folder in (tmp_path / "out" / "data").iterdir() if folder.is_dir()]
    assert prepared.name.startswith("stories-")
    assert list(read_json(prepared / "manifest.json")["corpora"]) == ["language"]
    run = tiny.only_run(tmp_path / "out")
    assert list(read_json(run / "evaluation.json")["stages"]["language"]["test"]) == ["language"]
    capsys.readouterr()
    settings = [f"output_root={tmp_path / 'out'}", *RUN]
    again = [f"data={prepared}", *(item for item in settings if not item.startswith("tokenizer."))]
    assert tiny.train_main(again) == 0
    assert "Done already" in capsys.readouterr().out
    for command in (["data=stories.txt", *settings], again):
        assert tiny.train_main([*command, "stage=full"]) == 2
        assert "its stage code needs code text, and the data has only language text" in capsys.readouterr().err


@pytest.mark.slow
def test_tune_and_report_work_with_code_alone(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["data=scripts", f"output_root={tmp_path / 'out'}", *RUN]
    search = [*settings, "tune.trials=3", "tune.extensions=0"]
    assert run_cli(lambda: tune.main(search)) == 0, capsys.readouterr().err
    assert tiny.train_main(["-m", "architecture=dense,mamba", *settings]) == 0, capsys.readouterr().err
    (summary,) = (tmp_path / "out" / "sweeps").glob("*/report/summary.md")
    assert "code bits/byte" in summary.read_text() and "language bits/byte" not in summary.read_text()
    assert run_cli(lambda: estimate.main(settings)) == 0


def test_a_single_document_is_split_by_position(text: Path, tmp_path: Path) -> None:
    novel = (text / "stories.txt").read_text().replace("<|endoftext|>", "")
    (text / "novel.txt").write_text(novel)
    assert tiny.train_main(["data=novel.txt", f"output_root={tmp_path / 'out'}", *RUN]) == 0
    (card,) = (tmp_path / "out" / "data").glob("novel-*/DATA_CARD.md")
    assert "Split by position: it has too few documents" in card.read_text()


def test_a_task_brings_its_stage_unless_one_is_given() -> None:
    assert expand_data_path(["data=mqar", "seed=1"]) == ["data=mqar", "stage=task", "seed=1"]
    assert expand_data_path(["data=mqar,parity"]) == ["data=mqar,parity", "stage=task"]
    assert expand_data_path(["data=mqar", "stage=code"]) == ["data=mqar", "stage=code"]
    assert expand_data_path(["data=embedded"]) == ["data=embedded"]
    assert expand_data_path(["data=mqar"], has_stages=False) == ["data=mqar"]
