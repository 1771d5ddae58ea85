"""What the documents say can be done: every command line composes, every link leads somewhere, every target exists."""

import re
import shlex
from pathlib import Path

import pytest

from src import export, generate, report
from src.compose import compose_config, expand_sweep, register, run_command
from src.config import (
    ROOT,
    DoctorConfig,
    EstimateConfig,
    ExportConfig,
    GenerateConfig,
    PrepareConfig,
    ReportConfig,
    TrainConfig,
)
from src.overrides import parse_arguments, quote_paths

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")])


def commands() -> list[tuple[str, str]]:
    """List (document, module and settings) of everything that runs a command of ours, be it by python or torchrun."""
    found = []
    for path in DOCUMENTS:
        for line in re.findall(r"(?<=-m )src\.[^`|\n]*", path.read_text(encoding="utf-8")):
            if "=" in line and "..." not in line and "experiment=NAME" not in line:
                found.append((path.name, re.sub(r"\s+#.*", "", line)))
    return found


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_of_the_documents_composes(document: str, line: str) -> None:
    module, *argv = shlex.split(line)
    name = module.removeprefix("src.")
    if name in ("train", "estimate"):
        schema = TrainConfig if name == "train" else EstimateConfig
        register(schema, name)
        for job in expand_sweep(name, schema, parse_arguments(quote_paths(argv)).overrides).jobs:
            compose_config(schema, name, job)
        return
    schema, raw = {
        "prepare": (PrepareConfig, ()),
        "generate": (GenerateConfig, generate.RAW),
        "report": (ReportConfig, ("dir",)),
        "export": (ExportConfig, export.RAW),
        "doctor": (DoctorConfig, ()),
    }[name]
    assert run_command(name, schema, lambda config: 0, quote_paths(argv) if name == "prepare" else argv, raw) == 0


def test_the_report_command_takes_its_folder_raw() -> None:
    assert report.main(["dir=/no/such folder"]) == 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
