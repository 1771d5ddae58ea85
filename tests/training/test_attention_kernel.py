"""FlexAttention against the reference on the CPU, in its unfused form, and the choice between it and SDPA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.attention import flex_attention as library

from src.model.blocks.attention import flex
from src.runtime.device import Device
from src.training import attention_kernel
from src.training.attention_kernel import choose_kernel
from src.training.compilation import Batch
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


FLEX = FlexDevice("cpu", "fp32", 1)


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
    monkeypatch.setattr(attention_kernel, "median_times", with_times(*times))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert choose_kernel(model, BATCH, FLEX, lines.append) == found
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
    monkeypatch.setattr(attention_kernel, "median_times", with_times(2.0, 1.0))
    assert choose_kernel(model, BATCH, FLEX, lines.append) == "sdpa" and not model.uses_flex


def test_failing_kernel_is_not_chosen() -> None:
    """Torch itself refuses gradients on the CPU."""
    model, lines = small_model("hybrid"), list[str]()
    assert choose_kernel(model, BATCH, FLEX, lines.append) == "sdpa" and not model.uses_flex
    assert lines[0].startswith("FlexAttention: it fails here (") and "going on with SDPA" in lines[0]


@pytest.mark.parametrize(
    ("architecture", "batch", "device"),
    [
        ("hybrid", BATCH, CPU),
        ("dense", BATCH, FLEX),
        ("mamba", Batch(2, 64, True), FLEX),
        ("hybrid", Batch(2, 8), FLEX),
    ],
)
def test_no_trial_where_there_is_nothing_to_choose(architecture: str, batch: Batch, device: Device) -> None:
    lines = list[str]()
    assert choose_kernel(small_model(architecture), batch, device, lines.append) == "sdpa" and lines == []


def test_the_choice_is_in_the_configuration_of_the_run(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1") == 0
    run = tiny.only_run(tmp_path)
    assert yaml.safe_load((run / "config.yaml").read_text())["runtime"]["attention"] == "sdpa"
    assert tiny.run(data, tmp_path, "training.max_steps=1") == 0
    assert tiny.only_run(tmp_path) == run, "the name is that of the setting as given"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["runtime.attention=flex"], "runtime.attention=flex: FlexAttention has no gradients on cpu; use auto or sdpa"),
        (["runtime.attention=flex", "runtime.compile=true"], "runtime.attention=flex: not with runtime.compile=true"),
        (["runtime.tf32=true"], "runtime.tf32=true: cpu computes fp32 in full; leave it out"),
    ],
)
def test_impossible_settings_are_one_line(
    settings: list[str], complaint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, tmp_path, *settings) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and not list(tmp_path.glob("runs/*"))
