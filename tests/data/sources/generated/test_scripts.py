"""Scripts: reproducible, varied, valid bash, and consistent with their header."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.data.sources.generated import GeneratedDocument, generate_scripts
from src.data.sources.generated.scripts import TASKS

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture(scope="module")
def scripts() -> list[GeneratedDocument]:
    return list(generate_scripts(seed=5, max_bytes=450_000))


def assert_bash_accepts(documents: list[GeneratedDocument]) -> None:
    for document in documents:
        result = subprocess.run(["bash", "-n"], input=document.text, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, ""), document.text


@needs_bash
def test_bash_parses_the_scripts(scripts: list[GeneratedDocument]) -> None:
    assert_bash_accepts(scripts[:150])


@needs_bash
@pytest.mark.slow
def test_bash_parses_two_megabytes() -> None:
    assert_bash_accepts(list(generate_scripts(seed=0, max_bytes=2_000_000)))


@pytest.mark.slow
def test_shellcheck_reports_nothing(scripts: list[GeneratedDocument], tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("there is no shellcheck")
    paths = [tmp_path / f"{index}.sh" for index in range(25)]
    for path, script in zip(paths, scripts, strict=False):
        path.write_text(script.text)
    result = subprocess.run([shellcheck, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_same_seed_gives_the_same_scripts_and_another_seed_others() -> None:
    first, again, other = (list(generate_scripts(seed, 20_000)) for seed in (1, 1, 2))
    assert first == again
    assert not {script.text for script in first} & {script.text for script in other}


def test_scripts_are_varied_and_end_with_a_newline(scripts: list[GeneratedDocument]) -> None:
    texts = [script.text for script in scripts]
    assert len(set(texts)) == len(texts)
    assert {script.kind for script in scripts} == set(TASKS)
    assert len(TASKS) >= 10
    assert {text.split("\n")[0] for text in texts} == {"#!/bin/bash", "#!/usr/bin/env bash"}
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in texts)


def test_scripts_run_in_bash_3_2(scripts: list[GeneratedDocument]) -> None:
    newer = r"declare -[gAn]|mapfile|readarray|,,\}|\^\^\}|\|&|&>>|coproc|local -n|\bwait -n|printf '%\("
    assert not [script.text for script in scripts if re.search(newer, script.text)]


def test_no_template_mark_is_left(scripts: list[GeneratedDocument]) -> None:
    assert not [script.text for script in scripts if re.search(r"[«»\t]| \n|\n\n\n", script.text)]


def test_the_options_of_the_header_are_listed_and_parsed(scripts: list[GeneratedDocument]) -> None:
    for script in scripts:
        usage = re.findall(r"(?m)^(?:# )?Usage: \S+ ?(.*)$", script.text)
        assert len(usage) == 2
        assert usage[0] == usage[1]
        options = re.findall(r"\[--?([\w-]+)", usage[0])
        parser = script.text[script.text.index("case $") :] if "while getopts" in script.text else script.text
        assert options
        for option in options:
            dashes = "--" if len(option) > 1 else "-"
            assert re.search(rf"(?m)^ +(-\w, )?{dashes}{option}\b", script.text), option
            pattern = rf"(?m)^ +-\w \| --{option}\) " if len(option) > 1 else rf"(?m)^ +{option}\) \w+="
            assert re.search(pattern, parser), (option, script.text)
        if found := re.search(r'getopts "([\w:]+)"', script.text):
            assert sorted(found[1].replace(":", "")) == sorted([*options, "h"])


def test_functions_are_defined_once_and_called(scripts: list[GeneratedDocument]) -> None:
    for script in scripts:
        names = re.findall(r"(?m)^(\w+)\(\) \{$", script.text)
        assert len(set(names)) == len(names) >= 5
        assert script.text.rstrip().endswith('main "$@"')
        for name in names:
            calls = len(re.findall(rf"(?<![\w$-]){name}(?![\w(=-])", script.text))
            assert calls >= 1, (name, script.text)


def test_variables_are_assigned_before_use(scripts: list[GeneratedDocument]) -> None:
    """Every expanded variable is assigned in the same script."""
    given = {"HOME", "SECONDS", "OPTARG", "OPTIND", "TEXT", "LINE", "NF", "NR"}
    for script in scripts:
        text = re.sub(r"(?s)awk .*?\n(?=  \w|})|'[^'\n]*'", "", script.text)
        used = set(re.findall(r"\$\{?#?([A-Za-z_]\w*)", text))
        for name in used - given:
            assigned = (
                rf"\b{name}=",
                rf"\blocal [\w= $]*\b{name}\b",
                rf"\b(for|read -r( -d '')?|getopts \S+) [\w ]*\b{name}\b",
                rf"for \(\({name}",
            )
            assert any(re.search(pattern, script.text) for pattern in assigned), (name, script.text)


def test_entropy_is_in_the_expected_range(scripts: list[GeneratedDocument]) -> None:
    rate = sum(script.bits for script in scripts) / sum(len(script.text.encode()) for script in scripts)
    assert 0.05 < rate < 0.8
    assert min(script.bits for script in scripts) > 60


def test_the_owner_at_the_end_is_the_one_in_the_table(scripts: list[GeneratedDocument]) -> None:
    asked = 0
    for script in scripts:
        if question := re.search(r'\$\(\w+ (\w+)\)"  # (?:now|today|at present) (\S+)\n', script.text):
            asked += 1
            assert re.search(rf"(?m)^{question[1]} \d+ {re.escape(question[2])}$", script.text)
    assert asked > 20
