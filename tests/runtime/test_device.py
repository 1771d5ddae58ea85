"""Devices: selection, precision, threads and one-line errors."""

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config.schema import ROOT, RuntimeConfig, UserError
from src.config.setting import choices_of
from src.runtime.device import (
    MAX_REDUCTION,
    Device,
    _set_arithmetic,
    check_reductions,
    is_nondeterministic,
    open_device,
    resolve_device,
)
from src.runtime.host import machine_bytes

CPU = RuntimeConfig(name="cpu", device="cpu", precision="auto")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Opening a device sets threads and arithmetic of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    _set_arithmetic(CPU, "cpu")


def test_tf32_and_deterministic_mode_are_off_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[object, ...]:
        return (
            os.environ.get("TRITON_F32_DEFAULT") != "ieee",
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            not torch.backends.cuda.mem_efficient_sdp_enabled(),
        )

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    open_device(CPU)
    assert state() == (False,) * 5 and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    _set_arithmetic(replace(CPU, tf32=True, deterministic=True), "cuda")
    assert state() == (True,) * 5 and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    open_device(CPU)
    assert state() == (False,) * 5


@pytest.mark.usefixtures("only_cpu")
def test_tf32_on_a_device_without_it_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^runtime\.tf32=true: cpu computes fp32 in full; leave it out$"):
        open_device(replace(CPU, tf32=True))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_are_pinned_for_cuda_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Fake:
        def pin_memory(self) -> "Fake":
            calls.append("pinned")
            return self

        def to(self, device: str, *, non_blocking: bool) -> "Fake":
            calls.append((device, non_blocking))
            return self

    monkeypatch.setattr(torch, "from_numpy", lambda batch: Fake())
    Device(kind, "fp32", 1).tensor(np.arange(3))
    assert calls == (["pinned", ("cuda", True)] if kind == "cuda" else [("cpu", False)])


@pytest.mark.parametrize("mode", [False, True])
def test_missing_deterministic_forms_are_recognized(mode: bool) -> None:
    torch.use_deterministic_algorithms(mode)
    error = RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...")
    assert is_nondeterministic(error) is mode
    assert not is_nondeterministic(RuntimeError("out of memory")) and not is_nondeterministic(ValueError(str(error)))


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize("name", ["mps", "cuda", "tpu", ""])
def test_an_unavailable_device_is_an_error(name: str) -> None:
    """There is no silent fallback to the CPU, which would take a hundred times as long."""
    with pytest.raises(UserError, match=rf"^runtime\.device={name}: .*there is cpu") as error:
        open_device(replace(CPU, device=name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mps", "cuda", "found"),
    [(True, True, "mps"), (False, True, "cuda"), (False, False, "cpu"), (True, False, "mps")],
)
def test_auto_selects_the_first_available_device(
    mps: bool, cuda: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_device("auto") == found
    assert resolve_device("cpu") == "cpu"


def test_precision_on_the_cpu() -> None:
    assert open_device(CPU).precision == "fp32"
    assert open_device(replace(CPU, precision="bf16")).precision == "bf16"
    with pytest.raises(UserError, match=r"^runtime\.precision=fp16: .*use fp32 or bf16"):
        open_device(replace(CPU, precision="fp16"))


@pytest.mark.parametrize(("native", "found"), [(True, "bf16"), (False, "fp32")])
def test_auto_selects_no_emulated_precision(native: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert open_device(replace(CPU, device="cuda")).precision == found


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    device, matrix = Device("cpu", precision, 1), torch.ones(2, 2)
    with device.autocast():
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32
    assert not device.build_scaler().is_enabled()


def test_threads_are_set() -> None:
    assert open_device(replace(CPU, threads=1)).threads == 1 == torch.get_num_threads()
    assert open_device(CPU).threads == torch.get_num_threads()


def test_a_cpu_device_has_tensors_memory_and_no_scaler() -> None:
    device = Device("cpu", "fp32", 3)
    assert device.describe() == "Device: CPU, precision fp32, 3 CPU threads"
    assert device.tensor(np.arange(3)).tolist() == [0, 1, 2]
    device.synchronize()
    assert 2**20 < device.memory_bytes() < 2**40
    held = device.held_bytes()
    ballast = torch.ones(1 << 26)
    more = device.held_bytes()
    del ballast
    assert held + (200 << 20) < more and device.held_bytes() < more - (200 << 20)


def test_peak_growth_excludes_memory_allocated_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fake counters of torch: an earlier peak must not count."""
    held, peak = [100], [900]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, held[0]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    assert Device("cuda", "fp32", 1).peak_growth(lambda: peak.__setitem__(0, 350)) == 250
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: held.__setitem__(0, 60))
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: held[0])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: peak[0])
    assert Device("mps", "fp32", 1).peak_growth(lambda: None) == 290


@pytest.mark.parametrize(("version", "refused"), [("2.13.0", True), ("2.13.1+cpu", True), ("2.14.0", False)])
def test_reductions_with_wrong_gradients_are_an_error(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    check_reductions(Device("mps", "fp32", 1), MAX_REDUCTION - 1)
    check_reductions(Device("cpu", "fp32", 1), MAX_REDUCTION)
    if refused:
        with pytest.raises(UserError, match="smaller or install"):
            check_reductions(Device("mps", "fp32", 1), MAX_REDUCTION)
    else:
        check_reductions(Device("mps", "fp32", 1), MAX_REDUCTION)


def _named_in_code(path: Path) -> list[str]:
    """List names, attributes and strings of a file, except docstrings, that contain cuda or mps."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = node.value
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.Name):
            text = node.id
        if re.search(r"(^|[^a-z])(cuda|mps)([^a-z]|$)", text, re.IGNORECASE):
            found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {text}")
    return found


def test_only_the_device_module_names_devices() -> None:
    """Exceptions: values that a user may write, help texts of keys, and torch's list of kernels."""
    telling = {
        "src/runtime/device.py",
        "src/runtime/distributed.py",
        "src/runtime/host.py",
        "src/config/schema/runtime.py",
        "src/config/comparability.py",
    }
    telling.add("src/profiling/operator_trace.py")
    files = [path for path in (ROOT / "src").rglob("*.py") if str(path.relative_to(ROOT)) not in telling]
    assert [line for path in files for line in _named_in_code(path)] == []
    in_schema = {line.split(": ")[1] for line in _named_in_code(ROOT / "src/config/schema/runtime.py")}
    assert in_schema <= set(choices_of(RuntimeConfig, "device"))


def test_free_memory_is_that_of_the_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs hold on the GPU counts as taken; what this process has cached does not."""
    gpus = {0: (1_000, 80_000), 1: (70_000, 80_000)}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: gpus[torch.cuda.current_device()])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 5_000)
    assert Device("cuda", "bf16", 1).free_bytes() == 75_000
    assert 0 < Device("cpu", "fp32", 1).free_bytes() <= machine_bytes()
