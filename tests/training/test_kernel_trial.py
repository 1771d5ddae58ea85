"""FlexAttention against the reference on the CPU, in its unfused form, and the choice of each kernel by its trial."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.attention import flex_attention as library

from src.model.blocks.attention import flex
from src.model.blocks.fla_kernels import is_fla_installed
from src.model.blocks.mamba import module as mamba
from src.model.blocks.mamba import ssd
from src.runtime.device import Device
from src.training import kernel_trial
from src.training.compilation import Batch
from src.training.kernel_trial import FLA, FLEX, choose_kernel
from tests.contract.small import CPU, small_model
from tests.integration import tiny
from tests.model.blocks.test_attention import assert_agree, heads
from tests.reference.attention import masked_attention
from tests.reference.documents import packed_ids

BATCH = Batch(2, 64)
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


class FlexDevice(Device):
    """A CPU that is said to have FlexAttention with gradients."""

    has_flex_gradients = True  # pyright: ignore[reportAssignmentType]


FLEX_DEVICE = FlexDevice("cpu", "fp32", 1)


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run FlexAttention without compiling it; torch refuses gradients on the CPU for its compiled form alone."""
    flex.block_mask.cache_clear()
    monkeypatch.setattr(library, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "compiled_attention", lambda: library.flex_attention)


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("window", [None, 1, 5, 16, 100])
@pytest.mark.parametrize("length", [1, 17, 48, 130])
def test_flex_attention_equals_masked_attention(length: int, window: int | None) -> None:
    q, k, v = heads(length)
    assert_agree(flex.flex_causal_attention(q, k, v, window), masked_attention(q, k, v, window), [q, k, v])


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("lengths", [(1, 7, 30, 10), (100, 60)])
def test_flex_attention_masks_documents(lengths: tuple[int, ...], window: int | None) -> None:
    q, k, v = heads(sum(lengths), batch=1)
    found = flex.flex_causal_attention(q, k, v, window, packed_ids(lengths, 1))
    cuts = torch.arange(sum(lengths)).split(list(lengths))
    expected = [masked_attention(q[:, :, cut], k[:, :, cut], v[:, :, cut], window) for cut in cuts]
    assert_agree(found, torch.cat(expected, dim=2), [q, k, v])


@pytest.mark.slow
def test_compiled_flex_attention_equals_masked_attention() -> None:
    with torch.no_grad():
        q, k, v = (each.detach() for each in heads(50))
        found = flex.flex_causal_attention(q, k, v, 16, packed_ids((20, 30), 2))
    cuts = (slice(20), slice(20, 50))
    expected = [masked_attention(q[:, :, cut], k[:, :, cut], v[:, :, cut], 16) for cut in cuts]
    torch.testing.assert_close(found, torch.cat(expected, dim=2), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unfused")
def test_mask_is_made_once_for_all_blocks() -> None:
    model, tokens = small_model("window_attention"), torch.arange(64).view(1, -1)
    documents = torch.zeros_like(tokens)
    model.uses_flex = True
    model(tokens, documents=documents)
    info = flex.block_mask.cache_info()
    assert info.misses == 1 and info.hits == model.spec.blocks.count("sliding_attention") - 1 > 0
    model(tokens, documents=documents.clone())
    assert flex.block_mask.cache_info().misses == 2


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize(("architecture", "masked"), [("hybrid", False), ("hybrid", True), ("dense", True)])
def test_model_is_the_same_with_flex_attention(architecture: str, masked: bool) -> None:
    model, tokens = small_model(architecture), torch.arange(128).view(2, 64)
    documents = (tokens // 20) if masked else None
    plain = model(tokens, documents=documents).hidden
    model.uses_flex = True
    assert model.uses_flex
    torch.testing.assert_close(model(tokens, documents=documents).hidden, plain, rtol=1e-4, atol=1e-5)


def with_times(sdpa: float, flexible: float) -> Callable[..., list[float]]:
    def median_times(passes: list[Callable[[], object]], device: Device, seconds: float) -> list[float]:
        for each in passes:
            each()
        return [sdpa, flexible]

    return median_times


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize(("times", "found"), [((2.0, 1.0), "flex"), ((1.0, 2.0), "sdpa")])
def test_faster_kernel_is_chosen(times: tuple[float, float], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lines = small_model("hybrid"), list[str]()
    monkeypatch.setattr(kernel_trial, "median_times", with_times(*times))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert choose_kernel(FLEX, model, BATCH, FLEX_DEVICE, lines.append) == found
    assert model.uses_flex is (found == "flex") and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lines[0].startswith(f"FlexAttention: {times[0] / times[1]:.2f} times as fast as SDPA, gradients differ by ")
    assert ("going on with SDPA" in lines[0]) is (found == "sdpa")


@pytest.mark.usefixtures("unfused")
def test_wrong_kernel_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lines = small_model("hybrid"), list[str]()

    def wrong(q: Tensor, k: Tensor, v: Tensor, block_mask: Any) -> Tensor:
        return library.flex_attention(q, k, v, block_mask=block_mask) * 1.5  # pyright: ignore[reportOperatorIssue]

    monkeypatch.setattr(flex, "compiled_attention", lambda: wrong)
    monkeypatch.setattr(kernel_trial, "median_times", with_times(2.0, 1.0))
    assert choose_kernel(FLEX, model, BATCH, FLEX_DEVICE, lines.append) == "sdpa" and not model.uses_flex


def test_failing_kernel_is_not_chosen() -> None:
    """Torch itself refuses gradients on the CPU."""
    model, lines = small_model("hybrid"), list[str]()
    assert choose_kernel(FLEX, model, BATCH, FLEX_DEVICE, lines.append) == "sdpa" and not model.uses_flex
    assert lines[0].startswith("FlexAttention: it fails here (") and "going on with SDPA" in lines[0]


@pytest.mark.parametrize(
    ("architecture", "batch", "device"),
    [
        ("hybrid", BATCH, CPU),
        ("dense", BATCH, FLEX_DEVICE),
        ("mamba", Batch(2, 64, True), FLEX_DEVICE),
        ("hybrid", Batch(2, 8), FLEX_DEVICE),
    ],
)
def test_no_trial_where_there_is_nothing_to_choose(architecture: str, batch: Batch, device: Device) -> None:
    lines = list[str]()
    assert choose_kernel(FLEX, small_model(architecture), batch, device, lines.append) == "sdpa" and lines == []


def test_the_choices_are_in_the_configuration_of_the_run(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1") == 0
    run = tiny.only_run(tmp_path)
    runtime = yaml.safe_load((run / "config.yaml").read_text())["runtime"]
    assert (runtime["attention"], runtime["kernels"]) == ("sdpa", "torch")
    assert tiny.run(data, tmp_path, "training.max_steps=1") == 0
    assert tiny.only_run(tmp_path) == run, "the name is that of the setting as given"


class NvidiaDevice(Device):
    """A CPU that is said to be an NVIDIA GPU."""

    is_nvidia_gpu = True  # pyright: ignore[reportAssignmentType]
    has_flex_gradients = False  # pyright: ignore[reportAssignmentType]


NVIDIA = NvidiaDevice("cpu", "fp32", 1)


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the extra cuda be found, as an empty package."""
    package = ModuleType("fla")
    package.__spec__ = ModuleSpec("fla", None)
    monkeypatch.setitem(sys.modules, "fla", package)


@pytest.mark.parametrize(("scale", "found"), [(1.0, "fla"), (1.5, "torch")])
def test_recurrences_of_the_library_are_chosen_if_they_agree(
    scale: float, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is replaced by our chunked form, which is scaled for a wrong one."""

    def scaled_ssd(*args: Any) -> tuple[Tensor, Tensor]:
        y, state = ssd.chunked_ssd(*args)
        return scale * y, state

    installed(monkeypatch)
    monkeypatch.setattr(mamba, "fla_ssd", scaled_ssd)
    monkeypatch.setattr(kernel_trial, "median_times", with_times(2.0, 1.0))
    model, lines = small_model("hybrid"), list[str]()
    assert choose_kernel(FLA, model, BATCH, NVIDIA, lines.append) == found and model.uses_fla is (found == "fla")
    assert lines[0].startswith("flash-linear-attention: 2.00 times as fast as our recurrences, gradients differ by ")
    assert ("going on with our recurrences" in lines[0]) is (found == "torch")


def test_a_missing_or_broken_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there is no trial; an empty one, as a broken installation has it, fails in the trial."""
    model, lines = small_model("mamba"), list[str]()
    monkeypatch.setattr(kernel_trial, "is_fla_installed", lambda: False)
    assert choose_kernel(FLA, model, BATCH, NVIDIA, lines.append) == "torch" and lines == []
    installed(monkeypatch)
    monkeypatch.setattr(kernel_trial, "is_fla_installed", lambda: True)
    assert choose_kernel(FLA, model, BATCH, NVIDIA, lines.append) == "torch" and not model.uses_fla
    assert lines[0].startswith("flash-linear-attention: it fails here (No module named 'fla.ops'")


@pytest.mark.parametrize(("architecture", "device"), [("mamba", CPU), ("dense", NVIDIA), ("mamba1", NVIDIA)])
def test_no_trial_of_recurrences_without_device_or_blocks(
    architecture: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    lines = list[str]()
    assert choose_kernel(FLA, small_model(architecture), BATCH, device, lines.append) == "torch" and lines == []


@pytest.mark.skipif(is_fla_installed(), reason="the extra cuda is installed")
def test_missing_extra_is_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(data, tmp_path, "runtime.kernels=fla") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "runtime.kernels=fla: not installed; pip install" in error and "[cuda]" in error


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["runtime.attention=flex"], "runtime.attention=flex: FlexAttention has no gradients on cpu; use auto or sdpa"),
        (["runtime.attention=flex", "runtime.compile=true"], "runtime.attention=flex: not with runtime.compile=true"),
        (["runtime.kernels=fla"], "runtime.kernels=fla: the kernels of the extra cuda need an NVIDIA GPU, not cpu"),
        (["runtime.kernels=fla", "runtime.compile=true"], "runtime.kernels=fla: not with runtime.compile=true"),
        (["runtime.kernels=fla", "runtime.deterministic=true"], "=fla: not with runtime.deterministic=true"),
        (["runtime.tf32=true"], "runtime.tf32=true: cpu computes fp32 in full; leave it out"),
    ],
)
def test_impossible_settings_are_one_line(
    settings: list[str],
    complaint: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch)
    assert tiny.run(data, tmp_path, *settings) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and not list(tmp_path.glob("runs/*"))
