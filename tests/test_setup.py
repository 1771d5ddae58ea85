"""The set-up: what the Makefile does before anything is installed, and that the files it rests on agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = ["help", "setup", "demo", "test", "test-all", "torture", "check", "format", "notebook", "docs", "clean"]

# A Python of the given version: answers the three questions of the set-up, and makes an environment whose pip does
# what PIP says.
PYTHON = """#!/bin/sh
echo "{name} $*" >> "$CALLS"
case "$*" in
    *sys.base_prefix*) echo "/opt/{name} {version}" ;;
    *version_info*) echo "{version}" ;;
    *ensurepip*) exit {venv_status} ;;
    *base_executable*) echo "$0" ;;
    *platform*) exit {platform_status} ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) eval "${{PIP:-:}}" ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, and a PATH of its own: make, a shell, its tools, and no Python."""
    work = tmp_path / "a tree"
    work.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, work)
    (tmp_path / "bin").mkdir()
    for tool in ("make", "sh", "awk", "cat", "cksum", "cp", "echo", "mkdir", "mv", "rm", "uname", "find"):
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / "bin" / tool).symlink_to(found)
    return work


def add_python(tree: Path, name: str, version: str, venv_status: int = 0, platform_status: int = 0) -> Path:
    """Put an interpreter of that name on the tree's PATH."""
    return add_tool(
        tree, name, PYTHON.format(name=name, version=version, venv_status=venv_status, platform_status=platform_status)
    )


def add_tool(tree: Path, name: str, text: str) -> Path:
    """Put a script on the tree's PATH."""
    path = tree.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def make(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in the tree, with nothing of this process's environment."""
    variables = {"PATH": str(tree.parent / "bin"), "CALLS": str(tree.parent / "calls"), **environment}
    return subprocess.run(["make", *arguments], cwd=tree, env=variables, capture_output=True, text=True, check=False)


def calls(tree: Path) -> str:
    """Return what the interpreters were asked since the last time."""
    path = tree.parent / "calls"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what was said on standard error, without the line that make itself adds for every failure."""
    assert result.returncode != 0
    return [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]


def test_help_is_the_default_and_explains_every_target(tree: Path) -> None:
    result = make(tree)
    assert result.returncode == 0
    assert re.findall(r"^make (\S+) +\S.*$", result.stdout, flags=re.MULTILINE) == TARGETS
    declared = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert declared and declared[1].split() == TARGETS
    assert "PYTHON=" in result.stdout


def test_no_python_is_one_line(tree: Path) -> None:
    for name in ("python3.11", "python3.12"):
        add_tool(tree, name, "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    add_python(tree, "python3.13", "3.10.1")
    add_python(tree, "python3", "3.14.0")
    result = make(tree, "test")
    (line,) = error_lines(result)
    assert line.startswith("No Python 3.11, 3.12 or 3.13 found: ")
    assert all(word in line for word in ("brew install", "apt install", "python.org"))
    assert result.stdout == ""
    assert not (tree / ".venv").exists()


def test_first_python_that_runs_is_taken(tree: Path) -> None:
    add_tool(tree, "python3.11", "#!/bin/sh\nexit 127\n")
    add_python(tree, "python3.12", "3.12.9", venv_status=1)
    add_python(tree, "python3.13", "3.13.2")
    add_python(tree, "python3", "3.11.4")
    result = make(tree, "setup")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1 and "Python 3.13.2" in result.stdout
    assert "python3.13 -m pip install --quiet -c constraints.txt -e .[dev]" in calls(tree)


def test_python_without_venv_is_one_line(tree: Path) -> None:
    add_python(tree, "python3.12", "3.12.9", venv_status=1)
    assert error_lines(make(tree, "setup")) == [
        "python3.12 is Python 3.12.9 without its venv module: apt install python3.12-venv"
    ]


def test_python_that_cannot_run_torch_on_a_mac_is_one_line(tree: Path) -> None:
    add_tool(tree, "uname", "#!/bin/sh\necho Darwin\n")
    add_python(tree, "python3.12", "3.12.9", platform_status=1)
    (line,) = error_lines(make(tree, "setup"))
    assert "macOS 14" in line and "arm64" in line


def test_chosen_python_is_used_and_no_other(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    (line,) = error_lines(make(tree, "setup", "PYTHON=/no/python"))
    assert line.startswith("PYTHON=/no/python is no Python 3.11, 3.12 or 3.13 that runs here")
    add_python(tree, "mine", "3.12.1")
    assert "Python 3.12.1" in make(tree, "setup", "PYTHON=mine").stdout
    assert make(tree, "setup").stdout == "", "kept, though python3.11 would be the first choice"
    assert "Python 3.11.9" in make(tree, "setup", "PYTHON=python3.11").stdout, "made anew with the one that is named"


def test_second_call_starts_at_once_and_a_changed_pin_updates(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup").returncode == 0
    calls(tree)
    assert make(tree, "setup").stdout == ""
    assert "pip" not in calls(tree)
    (tree / "constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    assert "up to date" in make(tree, "setup").stdout
    said = calls(tree)
    assert "pip install" in said and "-m venv" not in said
    assert make(tree, "setup").stdout == ""


@pytest.mark.parametrize("pip", ["exit 1", "kill -9 $$ $PPID"])
def test_broken_off_setup_is_made_anew(tree: Path, pip: str) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup", PIP=pip).returncode != 0
    assert (tree / ".venv").exists() and not (tree / ".venv" / ".installed").exists()
    calls(tree)
    assert make(tree, "setup").stdout.startswith("Setting up .venv")
    assert "-m venv" in calls(tree)


def test_moved_tree_is_set_up_anew_and_an_environment_made_by_hand_is_kept(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup").returncode == 0
    moved = tree.rename(tree.with_name("moved"))
    assert make(moved, "setup").stdout.startswith("Setting up .venv"), "scripts in .venv hold the old path"
    (moved / ".venv" / ".installed").unlink()
    (moved / ".venv" / "mine").touch()
    assert make(moved, "setup").stdout.startswith("Bringing .venv")
    assert (moved / ".venv" / "mine").exists()


def test_clean_leaves_outputs(tree: Path) -> None:
    for name in (".venv", ".ruff_cache", "outputs/runs", "src/__pycache__", "tests"):
        (tree / name).mkdir(parents=True)
    assert make(tree, "clean").returncode == 0
    assert sorted(path.name for path in tree.iterdir() if path.is_dir()) == ["outputs", "src", "tests"]
    assert (tree / "outputs" / "runs").exists() and not (tree / "src" / "__pycache__").exists()


GNU_ONLY = [
    r"^\.ONESHELL", r"\$\(file ", r"^\w+ *!= ", r"::=", r"grep -\w*P", r"sed -i", r"readlink -f", r"cp --", r"touch -d",
    r"\[\[", r"<\(", r"\bcp -a", r"\bstat -", r"\bdate -", r"\bsort -V", r"\bxargs -r",
]  # fmt: skip


@pytest.mark.parametrize("construct", GNU_ONLY)
def test_makefile_needs_nothing_that_a_mac_lacks(construct: str) -> None:
    lines = [line for line in MAKEFILE.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.search(construct, line)]


def test_setup_script_is_clean_posix_shell(tmp_path: Path) -> None:
    show = tmp_path / "show.mk"
    show.write_text(f"{MAKEFILE}\nshow:\n\t@printf '%s\\n' '#!/bin/sh' \"$$SETUP\"\n", encoding="utf-8")
    result = subprocess.run(
        ["make", "-s", "-f", str(show), "show"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    script = tmp_path / "setup.sh"
    script.write_text(result.stdout, encoding="utf-8")
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("shellcheck")), str(script), str(ROOT / ".ci" / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.stdout == ""
    assert checked.returncode == 0


def test_constraints_pin_every_direct_dependency_and_name_no_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {requirement for group in project["optional-dependencies"].values() for requirement in group}
    names = {re.split(r"[\[<>=; ]", item)[0] for item in wanted.union(project["dependencies"])} - {project["name"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line) for line in pins), "a pin is a name and a public version"
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in pins}
    assert names <= pinned
    assert not pinned & {"triton", "setuptools", "pip"}
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda"))]


def test_continuous_integration_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands[-1] == "make test" and len(commands) == 3
