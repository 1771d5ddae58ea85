"""The documentation: every command line composes, every link and make target exists.

The training guide documents every training setting and no other.
"""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import chat, export, generate, report, serve
from src.cli.command import run_command
from src.cli.command_line import parse_arguments, quote_paths
from src.cli.compose import build_config, compose_config, expand_sweep, register_schema, schema_keys
from src.cli.data_path import expand_data_path
from src.config.schema import (
    ROOT,
    AdviseConfig,
    BenchmarkConfig,
    ChatConfig,
    DemoConfig,
    DoctorConfig,
    EstimateConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PlanConfig,
    PrepareConfig,
    ReportConfig,
    RunsConfig,
    ServeConfig,
    StageConfig,
    TrainConfig,
    TuneConfig,
    ValidateConfig,
)
from src.runs import __main__ as runs

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/dev/*.md"), *ROOT.glob("experiments/*.md")]
)
GUIDE = (ROOT / "docs" / "TRAINING_GUIDE.md").read_text(encoding="utf-8")
SCHEMAS = (
    TrainConfig,
    EstimateConfig,
    PrepareConfig,
    GenerateConfig,
    ReportConfig,
    RunsConfig,
    ExportConfig,
    DoctorConfig,
    ValidateConfig,
    AdviseConfig,
    BenchmarkConfig,
    EvaluateConfig,
    TuneConfig,
    DemoConfig,
)
SWEEPING = {
    "train": TrainConfig,
    "demo": DemoConfig,
    "estimate": EstimateConfig,
    "benchmark": BenchmarkConfig,
    "tune": TuneConfig,
}
STAGE_KEYS = {f"stage.stages.code.{item.name}" for item in fields(StageConfig)}


def commands() -> list[Any]:
    """List (document, module and settings) of every line that runs one of our commands by python or torchrun.

    Those outside README.md are slow.
    """
    found = []
    for path in DOCUMENTS:
        for line in re.findall(r"(?<=-m )src\.[^`|\n]*", path.read_text(encoding="utf-8")):
            if "=" in line and "..." not in line and "experiment=NAME" not in line:
                found.append((path.name, re.sub(r"\s+#.*", "", line)))
    readme, slow = (ROOT / "README.md").read_text(encoding="utf-8"), pytest.mark.slow
    first = {line: document for document, line in reversed(found)}
    return [pytest.param(name, line, marks=[] if line in readme else [slow]) for line, name in first.items()]


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_of_the_documents_composes(
    document: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stories.txt", "texts", "PATH"):  # what data=PATH names in the documents
        (tmp_path / name).write_text("Once upon a time")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    module, *argv = shlex.split(line)
    name = module.removeprefix("src.")
    if schema := SWEEPING.get(name):
        register_schema(schema, name)
        seen: set[str] = set()
        jobs = expand_sweep(name, schema, parse_arguments(expand_data_path(quote_paths(argv))).overrides).jobs
        if any(item.startswith("+experiment=") for item in argv):
            jobs = jobs[:1]  # tests/cli/test_compose.py composes all of an experiment
        for job in jobs:
            if not seen.issuperset(job):  # each value once, not each combination
                compose_config(schema, name, job)
                seen.update(job)
        return
    schema, raw = {
        "prepare": (PrepareConfig, ()),
        "generate": (GenerateConfig, generate.RAW),
        "evaluate": (EvaluateConfig, ("run",)),
        "report": (ReportConfig, ("dir",)),
        "runs": (RunsConfig, runs.RAW),
        "chat": (ChatConfig, chat.RAW),
        "serve": (ServeConfig, serve.RAW),
        "export": (ExportConfig, export.RAW),
        "doctor": (DoctorConfig, ()),
        "validate": (ValidateConfig, ()),
        "advise": (AdviseConfig, ()),
    }[name]
    if name == "prepare":
        argv = expand_data_path(quote_paths(argv), has_stages=False)
    assert run_command(name, schema, lambda config: 0, runs.quote_lists(argv) if name == "runs" else argv, raw) == 0


def test_the_report_command_accepts_an_unquoted_folder() -> None:
    assert report.main(["dir=/no/such folder"]) == 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_has_a_target(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_site_lists_every_page_once() -> None:
    docs = ROOT / "docs"
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w/-]+\.md", str(navigation))
    pages = {str(path.relative_to(docs)) for path in docs.glob("**/*.md") if "results" not in path.parts}
    assert len(listed) == len(set(listed)) and pages <= set(listed), sorted(pages - set(listed))


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"


def test_the_guide_documents_every_training_setting() -> None:
    groups = ("training.", "runtime.", "optimizer.", "schedule.")
    settings = {key for key in schema_keys(TrainConfig) if key.startswith(groups) and not key.endswith(".name")}
    in_code = set(re.findall(r"`\+?([a-z0-9_.]+)", GUIDE))
    assert settings | STAGE_KEYS <= in_code, f"add to the guide: {sorted((settings | STAGE_KEYS) - in_code)}"


def test_every_setting_in_the_guide_exists() -> None:
    known = {key for schema in SCHEMAS for key in schema_keys(schema)} | STAGE_KEYS
    known |= {"stage.stages.code.mixture.language", "key"}  # of a mapping, and the placeholder for its keys
    given = set(re.findall(r"(?<=[` ])\+?([a-z_.]+)=", "".join(re.findall(r"`[^`]+`", GUIDE))))
    assert given and given <= known, f"no such setting: {sorted(given - known)}"


def test_stages_defined_in_the_guide_are_valid() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    plan = build_config(PlanConfig, yaml.safe_load(block))
    assert [stage.corpus for stage in plan.stages.values()] == ["language", "code", "code"]
