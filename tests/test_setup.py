"""The setup: scripts/setup.sh with each interpreter and installer, and the consistency of the package lists."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
TARGETS = "help setup demo test test-all torture check format notebook docs lock clean".split()
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OWN_PINS = "torch$|triton$|nvidia-|cuda-"  # PyTorch is pinned by constraints.txt, and pins its CUDA libraries itself
DEMO, TEST = "-r requirements/demo.txt", "-r requirements/demo.txt -r requirements/test.txt"

# A Python of the given version: it answers the questions of the setup, and creates an environment whose pip runs PIP
# with the settings PIP_CONFIG.
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
    "-m pip config list") echo "${{PIP_CONFIG:-}}" ;;
esac
"""

# Finds the interpreter that FOUND names, and creates environments with the given one.
UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
case "$*" in
    "python find"*) echo "${FOUND:-}" ;;
    "venv"*" --python "*) mkdir -p .venv/bin && cp "$6" .venv/bin/python ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the files that the setup reads, and a PATH with make, a shell and its tools, but without Python."""
    work = tmp_path / "a tree"
    work.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, work)
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, work / name)
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
    """Run make in the tree, without the environment of this process."""
    variables = {"PATH": str(tree.parent / "bin"), "CALLS": str(tree.parent / "calls"), **environment}
    return subprocess.run(["make", *arguments], cwd=tree, env=variables, capture_output=True, text=True, check=False)


def calls(tree: Path) -> str:
    """Return the calls of the interpreters since the last call of this function."""
    path = tree.parent / "calls"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of standard error, without the one that make adds for every failure."""
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
    add_python(tree, "python3", "3.15.0")
    result = make(tree, "test")
    (line,) = error_lines(result)
    assert line.startswith("No Python 3.11 to 3.14 found: ")
    assert all(word in line for word in ("brew install", "apt install", "python.org"))
    assert result.stdout == ""
    assert not (tree / ".venv").exists()


def test_the_first_working_python_is_used(tree: Path) -> None:
    add_tool(tree, "python3.11", "#!/bin/sh\nexit 127\n")
    add_python(tree, "python3.12", "3.12.9", venv_status=1)
    add_python(tree, "python3.13", "3.13.2")
    add_python(tree, "python3", "3.11.4")
    result = make(tree, "setup")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1 and "Python 3.13.2" in result.stdout
    said = calls(tree)
    assert f"python3.13 -m pip install --quiet --no-compile --no-deps --require-hashes {TEST}\n" in said
    assert "python3.13 -m pip install --quiet --no-compile --no-build-isolation -c constraints.txt -e .\n" in said


@pytest.mark.parametrize("version", PYTHONS)
def test_every_supported_python_is_found(tree: Path, version: str) -> None:
    add_python(tree, f"python{version}", f"{version}.1")
    assert f"Python {version}.1" in make(tree, "setup").stdout


def test_demo_installs_runtime_packages_and_test_adds_the_rest(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "demo").returncode == 0
    said = calls(tree)
    assert f"--require-hashes {DEMO}\n" in said and "src.demo" in said
    assert make(tree, "setup").stdout.startswith("Updating .venv")
    said = calls(tree)
    assert f"--require-hashes {TEST}\n" in said and "-m venv" not in said
    assert make(tree, "demo").stdout == "", "the installed packages include those of the demo"
    assert "pip" not in calls(tree)


def test_uv_makes_the_environment_and_installs_the_same_lists(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9", venv_status=1)
    add_tool(tree, "uv", UV)
    assert make(tree, "setup").returncode == 0
    said = calls(tree)
    assert "uv venv --quiet --allow-existing --seed --python" in said
    assert f"uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes {TEST}\n" in said
    assert "uv pip install --quiet --python .venv/bin/python --no-build-isolation -c constraints.txt -e .\n" in said
    assert "-m pip install" not in said and "-m venv" not in said
    assert make(tree, "setup").stdout == ""


def test_uv_finds_an_interpreter_that_is_not_on_path(tree: Path) -> None:
    add_tool(tree, "uv", UV)
    assert error_lines(make(tree, "setup"))[0].startswith("No Python 3.11 to 3.14 found: ")
    python = add_python(tree, "own python", "3.12.7")
    assert "Python 3.12.7" in make(tree, "setup", FOUND=str(python)).stdout


@pytest.mark.parametrize("setting", ["global.index-url='x'", ":env:.extra-index-url='x'", "user.find-links='x'"])
def test_pip_installs_if_its_settings_name_other_indexes(tree: Path, setting: str) -> None:
    add_python(tree, "python3.11", "3.11.9")
    add_tool(tree, "uv", UV)
    assert make(tree, "setup", PIP_CONFIG=setting).returncode == 0
    said = calls(tree)
    assert "-m venv .venv" in said and f"--require-hashes {TEST}\n" in said
    assert "uv pip" not in said and "uv venv" not in said


def test_pip_installs_if_uv_is_disabled(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    add_tool(tree, "uv", UV)
    assert make(tree, "setup", "UV=").returncode == 0
    said = calls(tree)
    assert "-m pip install" in said and "uv " not in said


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
    assert line.startswith("PYTHON=/no/python is no Python 3.11 to 3.14 that runs here")
    add_python(tree, "mine", "3.12.1")
    assert "Python 3.12.1" in make(tree, "setup", "PYTHON=mine").stdout
    assert make(tree, "setup").stdout == "", "kept, although python3.11 would be the first choice"
    assert "Python 3.11.9" in make(tree, "setup", "PYTHON=python3.11").stdout, "made again with the named interpreter"


def test_second_call_starts_at_once_and_a_changed_pin_updates(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup").returncode == 0
    calls(tree)
    assert make(tree, "setup").stdout == ""
    assert "pip" not in calls(tree)
    (tree / "constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    assert make(tree, "setup").stdout.startswith("Updating .venv")
    said = calls(tree)
    assert "pip install" in said and "-m venv" not in said
    assert make(tree, "setup").stdout == ""


@pytest.mark.parametrize("pip", ["exit 1", "kill -9 $$ $PPID"])
def test_an_interrupted_setup_is_repeated(tree: Path, pip: str) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup", PIP=pip).returncode != 0
    assert (tree / ".venv").exists() and not (tree / ".venv" / ".installed").exists()
    calls(tree)
    assert make(tree, "setup").stdout.startswith("Setting up .venv")
    assert "-m venv" in calls(tree)


def test_a_moved_tree_is_set_up_again_and_an_environment_made_by_hand_is_kept(tree: Path) -> None:
    add_python(tree, "python3.11", "3.11.9")
    assert make(tree, "setup").returncode == 0
    moved = tree.rename(tree.with_name("moved"))
    assert make(moved, "setup").stdout.startswith("Setting up .venv"), "scripts in .venv hold the old path"
    (moved / ".venv" / ".installed").unlink()
    (moved / ".venv" / "mine").touch()
    assert make(moved, "setup").stdout.startswith("Updating .venv")
    assert (moved / ".venv" / "mine").exists()


def test_lock_without_uv_is_one_line(tree: Path) -> None:
    assert error_lines(make(tree, "lock")) == ["uv is not installed: brew install uv (Mac), or pip install uv"]


def test_clean_leaves_outputs(tree: Path) -> None:
    for name in (".venv", ".ruff_cache", "outputs/runs", "src/__pycache__", "tests"):
        (tree / name).mkdir(parents=True)
    assert make(tree, "clean").returncode == 0
    assert sorted(path.name for path in tree.iterdir() if path.is_dir()) == [
        "outputs", "requirements", "scripts", "src", "tests"
    ]  # fmt: skip
    assert (tree / "outputs" / "runs").exists() and not (tree / "src" / "__pycache__").exists()


GNU_ONLY = [
    r"^\.ONESHELL", r"\$\(file ", r"^\w+ *!= ", r"::=", r"grep -\w*P", r"sed -i", r"readlink -f", r"cp --", r"touch -d",
    r"\[\[", r"<\(", r"\bcp -a", r"\bstat -", r"\bdate -", r"\bsort -V", r"\bxargs -r",
]  # fmt: skip


@pytest.mark.parametrize("construct", GNU_ONLY)
def test_makefile_and_scripts_run_on_a_mac(construct: str) -> None:
    text = "\n".join([MAKEFILE, *(script.read_text(encoding="utf-8") for script in SCRIPTS)])
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.search(construct, line)]


def test_scripts_are_clean_posix_shell() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("shellcheck")), *map(str, SCRIPTS), str(ROOT / ".ci" / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.stdout == ""
    assert checked.returncode == 0
    assert {script.read_text(encoding="utf-8").splitlines()[0] for script in SCRIPTS} == {"#!/bin/sh"}


def test_constraints_pin_every_direct_dependency_and_name_no_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = {requirement for group in project["optional-dependencies"].values() for requirement in group}
    names = {re.split(r"[\[<>=; ]", item)[0] for item in expected.union(project["dependencies"])} - {project["name"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line) for line in pins), "a pin is a name and a public version"
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in pins}
    assert names <= pinned
    assert not pinned & {"triton", "pip"}
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda"))]


def test_continuous_integration_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands[-1] == "make test" and len(commands) == 3


def read_pins(*names: str) -> list[Requirement]:
    """Return the requirements of the lists, each `NAME==VERSION` with an optional marker, without their hashes."""
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line.rstrip("\\ ")) for line in lines if line and not line.startswith((" ", "#"))]


def applies(marker: Marker | None, python: str, platform: str, extra: str = "") -> bool:
    """Return whether a marker holds for a Python version, a platform (`linux`, `darwin`) and an extra."""
    machine, system = {"linux": ("x86_64", "Linux"), "darwin": ("arm64", "Darwin")}[platform]
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": platform, "os_name": "posix",
        "platform_machine": machine, "platform_system": system, "extra": extra,
    }  # fmt: skip
    return marker is None or marker.evaluate(environment)


def expand(requirements: Iterable[str]) -> list[Requirement]:
    """Parse requirements; `advanced-code-model[EXTRA]` is replaced by the requirements of that extra."""
    found: list[Requirement] = []
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["project"]["name"]:
            for extra in requirement.extras:
                found += expand(PROJECT["project"]["optional-dependencies"][extra])
        else:
            found.append(requirement)
    return found


RUNTIME = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LISTS = {
    "demo": (["requirements/demo.txt"], RUNTIME),
    "test": (["requirements/demo.txt", "requirements/test.txt"], [*RUNTIME, *EXTRAS["dev"]]),
    "all": (["constraints.txt"], [*RUNTIME, *(requirement for extra in EXTRAS.values() for requirement in extra)]),
}


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("level", LISTS)
def test_lists_pin_every_requirement_within_its_range(level: str, python: str, platform: str) -> None:
    files, requirements = LISTS[level]
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in read_pins(*files)
        if applies(pin.marker, python, platform)
    }
    wrong = [
        f"{requirement} but {pins.get(canonicalize_name(requirement.name))}"
        for requirement in expand(requirements)
        if applies(requirement.marker, python, platform)
        and not (requirement.name == "torch" and level != "all")
        and not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert not wrong, f"{' and '.join(files)}: run make lock"


def test_pins_are_what_the_installed_packages_ask_for() -> None:
    """Two pins that exclude each other end every installation; all of them are seen where every extra is installed."""
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in read_pins("constraints.txt")}
    wrong = [
        f"{package.name} {package.version} needs {requirement}, but {pins[name]} is pinned"
        for package in distributions()
        if pins.get(canonicalize_name(package.name)) == package.version
        for requirement in map(Requirement, package.requires or ())
        if (name := canonicalize_name(requirement.name)) in pins
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and not requirement.specifier.contains(pins[name], prereleases=True)
    ]
    assert not wrong


def test_lists_have_the_versions_of_the_constraints_with_hashes() -> None:
    constraints = {canonicalize_name(pin.name): pin.specifier for pin in read_pins("constraints.txt")}
    for name in ("requirements/demo.txt", "requirements/test.txt"):
        pins = read_pins(name)
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not [pin for pin in pins if constraints.get(canonicalize_name(pin.name), pin.specifier) != pin.specifier]
        assert not [pin.name for pin in pins if re.match(OWN_PINS, pin.name)]
        assert len(re.findall(r"^[^ #].* \\\n    --hash=sha256:[0-9a-f]{64}", text, flags=re.MULTILINE)) == len(pins)
        unpinned = [pin for pin in pins if canonicalize_name(pin.name) not in constraints]
        assert not [
            pin for pin in unpinned for platform in ("linux", "darwin") if applies(pin.marker, "3.14", platform)
        ]
    both = {pin.name for pin in read_pins("requirements/demo.txt")}
    assert not both & {pin.name for pin in read_pins("requirements/test.txt")}


def needed(requirements: list[Requirement]) -> set[str]:
    """Return the names of all direct and indirect requirements, read from the installed packages."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_requirements = [(requirement, "") for requirement in requirements]
    while open_requirements:
        requirement, parent_extra = open_requirements.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": parent_extra}):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                open_requirements += [(Requirement(text), extra) for text in distribution(name).requires or []]
    return names


@pytest.mark.parametrize("level", ["demo", "test"])
def test_lists_contain_every_required_package(level: str) -> None:
    files, requirements = LISTS[level]
    try:
        missing = needed(expand(requirements)) - {canonicalize_name(pin.name) for pin in read_pins(*files)}
    except PackageNotFoundError as error:
        pytest.fail(f"{error} is required by an installed package, but is not installed")
    assert not [name for name in missing if not re.match(OWN_PINS, name)], "run make lock"


def test_supported_python_versions_are_consistent() -> None:
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}" in supported] == PYTHONS
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert f"python: {PYTHONS}".replace("'", '"') in workflow
    assert f"'{PROJECT['project']['requires-python']}'" in (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
