"""Random command lines from the schemas: every command, every key, and invalid values of every kind.

    python -m tests.torture.command_lines 3000 [SEED]

Each command line runs in a fork of a process that has imported everything and computed nothing, and is stopped where it
would train, measure or write for long. It fails with a traceback, an unexpected exit status, a signal, exit status 2
without an error line, or a timeout. An accepted setting has to change the resolved configuration.
"""

import dataclasses
import faulthandler
import io
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

from src import benchmark, doctor, estimate, evaluate, export, generate, prepare, report, train, tune
from src.cli import compose
from src.cli.command import run_cli
from src.cli.command_line import given_keys, quote_paths
from src.config import schema as schemas
from src.config.schema import CONF, EXPERIMENTS, UserError
from src.config.setting import entries_of

MAINS: dict[str, Callable[[list[str]], int]] = {
    "train": train.main,
    "tune": tune.main,
    "prepare": prepare.main,
    "evaluate": evaluate.main,
    "generate": generate.main,
    "report": report.main,
    "export": export.main,
    "estimate": estimate.main,
    "benchmark": benchmark.main,
    "doctor": doctor.main,
}
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "repositories")
LIMIT_S = 30
MEMORY_BYTES = 6 << 30
"""What a fork may address beyond its parent: an input that asks for more fails with MemoryError, a traceback."""

NUMBERS = """
0 -0 1 2 3 -1 7 1.5 -2.5 1e3 1e400 -1e400 nan inf -inf .5 1_000 0x10 00 99999999999 18446744073709551616 1000000000000
1e308 4294967296 2147483648 1000000007 65537 null true false 1000000000000000000
""".split()
TEXTS = [
    *"abc auto cpu cuda mps none json text huggingface ours /etc/passwd /dev/null . .. / ~ ~nosuchuser/x no".split(),
    *"a/b ../x - -- a,b a:b a=b ' \" 'a,b' \\ \x07 \x1b[31m \udcff %s%n * ? $HOME ${HOME} ${nope:1} ${seed} ${".split(),
    *"${oc.env:HOME} ${size.d_model} $(ls) `ls` ??? __import__ None".split(),
    *(
        "",
        " ",
        "a b",
        "\t",
        "a\nb",
        '"a, b"',
        "naïve 🐢 日本",
        "x" * 300,
        "x" * 5000,
        "x/" * 3000,
        "9" * 400,
        "9" * 5000,
    ),
]
GRAMMAR = [
    *"[] [1] [-1] [null] [[]] [a,b] [1,2 {} {a:1} {a:{b:[1]}} {a [~a,b] [0.9,0.95] [256] int(3) float(x)".split(),
    *"choice(a,b) choice(1) range(1,3) range(0,1,0) range(0,10000000) interval(0,1) glob(*) glob([a*,b*])".split(),
    *"sort(3,1) shuffle(1,2) tag(t,1,2) 0,1 a,b dense,moe 1,,2 ,".split(),
]
FLAGS = """
-m --multirun --help -h --cfg --cfg=job --cfg=hydra --cfg=all --info --info=config --version --hydra-help --resolve
--package --package=x --run -r --shell-completion -sc --config-path=x --config-name=x --config-dir=x -cn -cp
--model-size
--experimental-rerun=x --seed=1 -x --
""".split()
LONE = [*"moe = =1 a= ~seed ~ + ++ +seed=1 ++seed=1 ~seed=0 @ a@b=c seed $ # \udcff".split(), "seed =3"]
HYDRA = """
hydra.run.dir=x hydra.mode=RUN hydra.mode=MULTIRUN hydra.sweeper.params=null hydra.sweeper.params=3 hydra.verbose=true
hydra.searchpath=[x] hydra=1 hydra.job.name=x hydra/launcher=joblib hydra/nope=x ~hydra.run.dir hydra.launcher.x=1
hydra.sweeper.params.seed=1,2 +hydra.sweeper.params.seed='1,2'
""".split()


class Line(NamedTuple):
    """A command line and its settings."""

    command: str
    arguments: list[str]
    single: str | None
    """The one setting of it, where it has no other: it must change something or be refused."""


class Outcome(NamedTuple):
    """The result of a command line."""

    line: Line
    status: int
    seconds: float
    fault: str | None
    output: str


def schema_keys(command: str) -> list[str]:
    schema = getattr(schemas, f"{command.title()}Config")
    return compose.schema_keys(schema)


def draw_line(draw: random.Random, folders: Sequence[str]) -> Line:
    """Draw a command line: a single setting half of the time, else several settings, flags and invalid arguments."""
    command = draw.choice([*MAINS, "train", "train", "estimate"])
    keys = schema_keys(command)
    if draw.random() < 0.5:
        setting = draw_setting(draw, keys, command, folders)
        return Line(command, [setting, *required_settings(command, [setting], folders)], setting)
    arguments = [draw_setting(draw, keys, command, folders) for _ in range(draw.randint(0, 4))]
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        arguments.append(draw.choice([*FLAGS, *LONE, *HYDRA, *(arguments or ["-m"])]))
    draw.shuffle(arguments)
    return Line(
        command, [*arguments, *(required_settings(command, arguments, folders) if draw.random() < 0.9 else [])], None
    )


def draw_setting(draw: random.Random, keys: Sequence[str], command: str, folders: Sequence[str]) -> str:
    """Draw `key=value`: usually a key of the command, with a value of any kind."""
    kind = draw.random()
    groups = GROUPS if "architecture" in keys else ["data", "tokenizer"] if command == "prepare" else []
    if kind < 0.12 and groups:
        group = draw.choice(groups)
        choices = [path.stem for path in (CONF / group).glob("*.yaml")]
        return f"{group}={draw.choice([*choices, *choices, draw_value(draw, folders)])}"
    if kind < 0.15:
        return f"+experiment={draw.choice([*(path.stem for path in EXPERIMENTS.glob('*.yaml')), 'nope', ''])}"
    key = draw.choice(keys)
    if kind < 0.22:
        key = draw.choice(
            [f"+{key}", f"++{key}", f"~{key}", f"{key}.x", f"+{key}.x", key[:-1], key.upper(), f"{key}[0]", f"{key}@x"]
        )
    if (
        (entry := entries_of(getattr(schemas, f"{command.title()}Config")).get(key))
        and (limit := entry.setting.range)
        and draw.random() < 0.3
    ):
        whole = not any(isinstance(end, float) for end in limit[:2])
        return f"{key}={draw.choice([limit.least, limit.most, limit.most + whole])}"
    return f"{key}={draw_value(draw, folders)}"


def draw_value(draw: random.Random, folders: Sequence[str]) -> str:
    return draw.choice(draw.choice([NUMBERS, NUMBERS, TEXTS, GRAMMAR, folders]))


def required_settings(command: str, arguments: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return the settings that a command requires, or that keep it short, unless they are given."""
    common = {
        "train": ["dry_run=true", "output_root=out"],
        "tune": ["output_root=out"],
        "prepare": ["mode=inspect", "output_root=out"],
        "evaluate": [f"run={folders[0]}", "device=cpu"],
        "generate": [f"run={folders[0]}", "max_new_tokens=2", "device=cpu", "prompt=a"],
        "report": [f"dir={folders[1]}"],
        "export": [f"run={folders[0]}", "format=huggingface", "out=exported"],
        "benchmark": ["output_root=out", "architecture=dense"],
    }.get(command, [])
    given = given_keys([item for item in arguments if "=" in item])
    return [item for item in common if item.partition("=")[0] not in given]


class ComputationReached(BaseException):
    """Raised where a command has passed all its checks and starts to compute."""


def stop_before_computing() -> None:
    """Stop commands where they start to compute: only the part before is tested."""
    import src.data.preparation.prepare
    import src.huggingface.convert_run
    import src.inference.generation
    import src.reporting
    import src.runs.final_evaluation
    import src.runs.planning
    import src.runs.runner
    import src.sweep.launch
    import src.sweep.learning_rate_search

    def stop(*_: Any, **__: Any) -> Any:
        raise ComputationReached

    for module, name in (
        (src.runs.runner, "execute_run"), (src.sweep.launch, "launch"), (src.sweep.launch, "write_report"),
        (src.sweep.learning_rate_search, "open_sweep"),
        (src.runs.planning, "prepare_data"), (src.data.preparation.prepare, "prepare_data"),
        (src.runs.final_evaluation, "evaluate_run"), (src.huggingface.convert_run, "export_run"),
        (src.huggingface.convert_run, "import_run"), (benchmark, "_measure"), (benchmark, "_profile"),
        (doctor, "examine"), (src.reporting, "write_report"), (src.reporting, "publish_runs"),
        (src.sweep.launch, "open_sweep"),
    ):  # fmt: skip
        assert hasattr(module, name), name
        setattr(module, name, stop)


def import_modules() -> None:
    """Import in the parent all modules that the forks need, without computing."""
    import pandas
    import torch

    for command in MAINS:
        schema = getattr(schemas, f"{command.title()}Config")
        compose.register_schema(schema, command)
    for command in ("train", "tune", "estimate", "benchmark", "prepare"):
        compose.compose_config(getattr(schemas, f"{command.title()}Config"), command, [])
    torch.set_num_threads(1)
    pandas.DataFrame()
    stop_before_computing()


def run_line(line: Line, folder: Path) -> Outcome:
    """Run one command line in a fork, in an empty folder."""
    read, write = os.pipe()
    started = time.monotonic()
    fork_id = os.fork()
    if fork_id == 0:
        os.close(read)
        try:
            _child(line, folder, write)
        finally:
            os._exit(99)
    os.close(write)
    output = b""
    while True:
        left = started + LIMIT_S - time.monotonic()
        ready = select.select([read], [], [], max(0.0, left))[0]
        part = os.read(read, 1 << 16) if ready else b""
        output += part
        if not part:
            break
    timed_out = time.monotonic() - started >= LIMIT_S
    if timed_out:
        os.kill(fork_id, signal.SIGABRT)  # faulthandler prints the stack
        ready = select.select([read], [], [], 2.0)[0]
        output += os.read(read, 1 << 16) if ready else b""
        os.kill(fork_id, signal.SIGKILL)
    os.close(read)
    _, code = os.waitpid(fork_id, 0)
    seconds = time.monotonic() - started
    text = output.decode("utf-8", "replace")
    status = -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
    return Outcome(line, status, seconds, find_fault(status, text, timed_out), text)


def find_fault(status: int, output: str, timed_out: bool) -> str | None:
    """Describe what is wrong with the result of a command line, or return None."""
    if timed_out:
        return "too late"
    if status < 0:
        return f"died of signal {-status}"
    if "Traceback (most recent call last)" in output:
        return "traceback"
    if "SILENT" in output:
        return "silent acceptance"
    if status not in (0, 2):
        return f"status {status}"
    if status == 2:
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        if len(errors) != 1 or any(letter < " " and letter != "\t" for letter in errors[0]):
            return "not one clean line"
    return None


def _child(line: Line, folder: Path, write: int) -> None:
    os.dup2(write, 1)
    os.dup2(write, 2)
    faulthandler.enable(file=2)
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    sys.stdin = io.TextIOWrapper(io.BytesIO())
    errors, out = io.StringIO(), io.StringIO()
    status = 99
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            status = run_cli(lambda: MAINS[line.command](list(line.arguments)))
    except ComputationReached:
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc(file=errors)
    output = errors.getvalue()
    try:
        if status == 0 and line.single is not None and (ignored := find_ignored_setting(line)):
            output += f"\nSILENT: {ignored}"
    except BaseException:
        output += traceback.format_exc()
    os.write(2, output[-60_000:].encode("utf-8", "replace"))
    os._exit(status)


def find_ignored_setting(line: Line) -> str | None:
    """Return the accepted setting if it does not change the resolved configuration, else None."""
    assert line.single is not None
    others = [item for item in line.arguments if item != line.single]
    schema = getattr(schemas, f"{line.command.title()}Config")
    raw = {
        "generate": generate.RAW,
        "export": export.RAW,
        "evaluate": ("run",),
        "report": ("dir", "publish_to", "compare_with"),
    }
    key, _, value = line.single.partition("=")
    if key in raw.get(line.command, ()):
        return None

    def resolved(overrides: Sequence[str]) -> str:
        plain = [item for item in overrides if item.partition("=")[0] not in raw.get(line.command, ())]
        missing = [
            f"{name}=raw" for name in ("run", "dir", "out") if name in schema_keys(line.command) and name not in plain
        ]
        quoted = quote_paths(plain)
        jobs = compose.expand_sweep(line.command, schema, [*quoted, *missing]).jobs
        return repr([compose.compose_config(schema, line.command, job) for job in jobs])

    try:
        if resolved(line.arguments) != resolved(others):
            return None
    except UserError as error:
        return f"{line.single} ({error})"
    bare = key.lstrip("+")
    default = next((item for item in [*others] if item.startswith(f"{bare}=")), None)
    config = compose.compose_config(
        schema,
        line.command,
        [
            *(f"{n}=raw" for n in ("run", "dir", "out") if n in schema_keys(line.command)),
            *(["format=text"] if line.command == "export" else []),
        ],
    )
    node: Any = config
    for part in bare.split("."):
        node = (
            getattr(node, part, None)
            if dataclasses.is_dataclass(node)
            else node.get(part)
            if isinstance(node, dict)
            else None
        )
    value = {"0": "false", "1": "true"}.get(value.lstrip("-+0") or "0", value) if isinstance(node, bool) else value
    shown = "null" if node is None else str(node).lower()
    same = value == "{}" or shown == value.lower().strip("'\"") or default is not None or bare in GROUPS
    with suppress(ValueError):
        same = same or float(value) == float(str(node))
    return None if same else line.single


def find_folders(folder: Path) -> list[str]:
    """Return folders for settings: a finished run first, a folder of runs, data, and an unrelated folder."""
    runs = sorted((folder / "outputs" / "runs").glob("*")) if (folder / "outputs").exists() else []
    data = sorted((folder / "outputs" / "data").glob("*")) if (folder / "outputs").exists() else []
    run = runs[0] if runs else folder / "no-run"
    return [*map(str, (run, run.parent, *data[:1], run / "config.yaml", run / "tokenizer.json", folder))]


def fuzz(n: int, seed: int, folder: Path, say: Callable[[str], None]) -> list[Outcome]:
    """Run n command lines on all cores, and return the failed outcomes."""
    import_modules()
    folders = find_folders(folder)
    workers = min(4, os.cpu_count() or 1)
    pipes: list[tuple[int, int]] = []
    for worker in range(workers):
        read, write = os.pipe()
        fork_id = os.fork()
        if fork_id == 0:
            _work(n, seed, worker, workers, folders, write)
        os.close(write)
        pipes.append((read, fork_id))
    failed: list[Outcome] = []
    n_finished, kinds = 0, Counter[str]()
    for read, fork_id in pipes:
        with os.fdopen(read, encoding="utf-8") as results:
            for result in results:
                outcome = eval(result, {"Outcome": Outcome, "Line": Line, "__builtins__": {}})
                n_finished += 1
                kinds[outcome.fault or f"status {outcome.status}"] += 1
                if outcome.fault:
                    failed.append(outcome)
        os.waitpid(fork_id, 0)
    say(f"{n_finished} command lines: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return failed


def _work(n: int, seed: int, worker: int, workers: int, folders: Sequence[str], write: int) -> None:
    with os.fdopen(write, "w", encoding="utf-8") as results, tempfile.TemporaryDirectory() as work:
        for number in range(worker, n, workers):
            line = draw_line(random.Random(f"{seed} {number}"), folders)
            folder = Path(work) / str(number)
            folder.mkdir()
            outcome = run_line(line, folder)
            results.write(repr(outcome if outcome.fault else outcome._replace(output="")) + "\n")
            results.flush()
            shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def describe(outcome: Outcome) -> str:
    """Format a failure for printing."""
    shown = " ".join(repr(item if len(item) < 150 else f"{item[:70]}...") for item in outcome.line.arguments)
    head = f"{outcome.fault} after {outcome.seconds:.1f} s, status {outcome.status}"
    return f"{head}: {outcome.line.command} {shown}\n{outcome.output[-1500:]}\n"


def main() -> int:
    """Run as many command lines as the first argument says, with the seed from the second."""
    n, seed, *folders = [*sys.argv[1:], *["300", "0"][len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as empty:
        failed = fuzz(int(n), int(seed), Path(*folders or [empty]), print)
    for outcome in failed:
        print(describe(outcome))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
