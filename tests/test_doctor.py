"""`python -m src.doctor`: its output and exit status."""

import json
from collections.abc import Iterator

import pytest
import torch

from src import doctor
from src.config.schema import CONF, ModelSpec
from src.profiling import device_checks
from src.profiling import doctor as body
from src.profiling.doctor import Comparison, Option
from src.runtime.device import Device
from tests.integration import tiny

COMBINATIONS = {
    f"{architecture.stem} {recipe.stem}"
    for architecture in (CONF / "architecture").glob("*.yaml")
    for recipe in (CONF / "recipe").glob("*.yaml")
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Opening a device sets the threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip slow parts: measured speeds, and all models except one."""
    monkeypatch.setattr(body, "matmul_speeds", lambda device: {"fp32": 1e11, "bf16": 2e9, "fp16": None})
    options = [Option("runtime.precision=bf16", 0.02), Option("runtime.compile=true", None, "no compiler")]
    monkeypatch.setattr(body, "measure_options", lambda spec, device, compiled: options[: 1 + compiled])
    monkeypatch.setattr(doctor, "check_device", lambda device, compiled: iter(()))
    monkeypatch.setattr(doctor, "names", lambda group: {"architecture": ["dense"], "recipe": ["modern"]}[group])


@pytest.mark.usefixtures("quick")
def test_json_output_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["format=json", "device=cpu", "threads=1"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["ok"] is True and found["failed"] == 0 and found["accelerator"] is False
    assert found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["precision"], found["threads"]) == ("cpu", "fp32", 1)
    assert found["options"] == [{"name": "runtime.precision=bf16", "speedup": 0.02, "note": "", "pays": False}]
    assert len(found["comparisons"]) == 5 and all(one["ok"] for one in found["comparisons"])
    assert "comparing dense" in said.err


@pytest.mark.usefixtures("quick")
def test_text_ends_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["device=cpu", "threads=1", "compile=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "All well: 5 comparisons, the CPU agrees with itself; there is no accelerator to compare with it."
    )
    assert "  bf16  2.00G  0.02x" in lines and "  fp16  -" in lines
    assert "  runtime.precision=bf16: 0.02x as fast, not worth it" in lines
    assert "  runtime.compile=true: not available here (no compiler)" in lines
    assert sum(line.startswith("  ok     ") for line in lines) == 5


@pytest.mark.usefixtures("quick")
def test_a_failed_comparison_is_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Comparison("dense", "a, b", {"loss": 0.5, "gradient": None}, False),
        Comparison("moe", "a, b", {}, False, "no kernel"),
        Comparison("mamba", "a, b", {"loss": 0.0}, True),
    ]
    monkeypatch.setattr(doctor, "compare_all", lambda device, compiled: iter(rows))
    assert doctor.main(["device=cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "FAILED: 2 of 3 comparisons failed; do not trust what is trained here."
    assert [line.split()[-1] for line in lines[:-1] if "FAILED" in line] == ["-", "kernel"]
    assert doctor.main(["device=cpu", "format=json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("device=tpu", "device=tpu: must be one of auto, mps, cuda, cpu"),
        ("format=xml", "format=xml: must be one of text, json"),
        ("threads=0", "threads=0: must be greater than 0"),
        ("compile=perhaps", "compile=perhaps: "),
        ("size=large", "size: no such setting"),
        ("-m", "--multirun: doctor has no sweeps"),
    ],
)
def test_invalid_settings_are_one_line(setting: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([setting]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and complaint in said.err


def test_a_missing_device_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert doctor.main(["device=mps"]) == 2
    assert "mps: not available on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "others"), [("cpu", ["sum", "checks"]), ("mps", ["sum", "checks", "optimizers"])])
def test_every_architecture_and_recipe_is_compared(
    kind: str, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ModelSpec]] = []
    monkeypatch.setattr(body, "compare", lambda name, spec, tokens, device: seen.append((name, spec)) or [])
    monkeypatch.setattr(body, "compare_long_reduction", lambda device: "sum")
    monkeypatch.setattr(body, "compare_optimizers", lambda spec, tokens, device: ["optimizers"])
    monkeypatch.setattr(doctor, "check_device", lambda device, compiled: ["checks"])
    assert list(doctor.compare_all(Device(kind, "fp32", 1), compiled=False)) == others
    assert {name for name, _ in seen} == COMBINATIONS
    for name, spec in seen:
        pattern = doctor.compose_train(*name.split()).architecture.pattern
        assert set(pattern) <= set(spec.blocks) and spec.window < doctor.SEQ_LEN > 2 * spec.chunk_size


@pytest.mark.slow
def test_the_whole_command_examines_this_machine() -> None:
    process = tiny.start(["format=json", "threads=1", "device=cpu"], module="src.doctor")
    out, _ = process.communicate(timeout=600)
    found = json.loads(out)
    assert process.returncode == 0 and found["ok"] and len(found["comparisons"]) == 4 * len(COMBINATIONS) + 1 + 17


@pytest.mark.parametrize("compiled", [False, True])
def test_every_device_check_runs(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(name: str) -> object:
        calls.append(name)
        return [name] if name in ("attention", "batch_shapes", "vocabularies") else name

    every = ("attention", "batch_shapes", "vocabularies", "overfitting", "memory_growth", "compiled")
    for name in every:
        monkeypatch.setattr(device_checks, f"compare_{name}", lambda *_, name=name: record(name))
    found = list(doctor.check_device(Device("cpu", "fp32", 1), compiled))
    assert found == calls and set(calls) == set(every if compiled else every[:-1])


def test_columns_are_as_wide_as_the_longest_name() -> None:
    names = ("dense modern", "a_very_long_architecture modern")
    found = [
        {"ok": True, "name": name, "ways": "forward", "differences": {"loss": 1e-6}, "error": ""} for name in names
    ]
    first, second = doctor._comparison_lines(found)
    assert first.index("forward") == second.index("forward") and len(first) == len(second)
