"""A new architecture needs only the folder and the YAML file that docs/ARCHITECTURE_COMPARISON.md adds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.schema import ROOT
from tests.integration import tiny

DOCUMENT = ROOT / "docs" / "ARCHITECTURE_COMPARISON.md"


def read_document_files() -> dict[str, str]:
    """Return the content of each code block in the document, by the file name before it."""
    blocks = re.findall(
        r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    return dict(blocks)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of the document added and nothing else changed."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("src", "conf", "experiments", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in read_document_files().items():
        assert not (copy / name).exists()
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    return copy


def run(tree: Path, *arguments: str) -> str:
    """Run a module in the copied tree and return its standard output."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_a_new_architecture_needs_one_folder_and_one_yaml(
    tree: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = {name.rpartition("/")[0] for name in read_document_files()}
    assert folders == {"conf/architecture", "src/model/blocks/leaky"}
    blocks = json.loads(run(tree, "src.estimate", "architecture=leaky", "size=micro", "format=json"))
    assert blocks["architecture"] == "leaky" and abs(blocks["match_residual"]) < 0.01
    assert blocks["not_in_memory"] == ["leaky"]
    settings = tiny.command_line(tiny.data_dir(tmp_path_factory), tmp_path, "architecture=leaky")
    assert "Run: " in run(tree, "src.train", *settings)
    folder = tiny.only_run(tmp_path)
    assert "Done already" in run(tree, "src.train", *settings)
    assert run(tree, "src.generate", f"run={folder}", "prompt=Once", "max_new_tokens=3").startswith("Once")
    assert "leaky" in run(tree, "src.train", "--help")


@pytest.mark.slow
def test_a_new_architecture_is_part_of_the_contract_tests(tree: Path) -> None:
    output = run(tree, "pytest", "tests/contract/test_architectures.py", "-k", "leaky", "-q", "-p", "no:cacheprovider")
    assert re.search(r"\d\d passed", output)
    run(
        tree,
        "pytest",
        "tests/model/test_size_matching.py",
        "-k",
        "every_configured_size and leaky",
        "-q",
        "-p",
        "no:cacheprovider",
    )
