"""Measured memory against known bytes, and the estimates against measured memory."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.config.formatting import show_bytes, table
from src.config.schema import ModelSpec
from src.model.cost.memory_estimate import Memory, inference_memory, training_memory
from src.model.size_matching import match_size
from src.profiling.memory_measurement import peak_growth
from tests.contract.small import composed, small_spec
from tests.profiling.peaks import (
    Measured,
    inference_peaks,
    measured_inference_memory,
    measured_training_memory,
    training_peak,
)

ARCHITECTURES = ("dense", "mamba", "mamba1", "moe", "hybrid", "gated_deltanet")
"""Every kind of block and a mixture; other architectures consist of the same."""
TOLERANCE = 0.1
MIB = 1 << 20


def test_peak_is_exact() -> None:
    kept = []

    def work() -> None:
        kept.append(torch.zeros(MIB, dtype=torch.uint8))
        temporary = torch.zeros(3 * MIB, dtype=torch.uint8)
        del temporary
        kept.append(torch.zeros(2 * MIB, dtype=torch.uint8))

    assert peak_growth(work) == 4 * MIB
    assert peak_growth(kept.clear) == 0
    # Temporary memory of a kernel, such as a convolution, counts too.
    weight, x = torch.zeros(8, 8, 3, requires_grad=True), torch.zeros(1, 8, MIB)
    assert peak_growth(lambda: torch.nn.functional.conv1d(x, weight, padding=1)) >= x.nbytes


@pytest.mark.parametrize("accumulate", [False, True])
def test_training_with_a_tied_head_matches_the_estimate(accumulate: bool) -> None:
    """With a vocabulary that has most of the parameters."""
    spec = replace(small_spec("dense"), tie_embeddings=True, vocab_size=20_000)
    settings = {"seq_len": 64, "micro_batch_size": 8, "accumulate": accumulate}
    measured = training_peak(spec, **settings).tensor_bytes
    assert training_memory(spec, **settings).total == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("change", ["negative_eigenvalues", "has_decoder"])
def test_training_on_tasks_matches_the_estimate(change: str) -> None:
    spec = replace(small_spec("mamba"), **{change: True})
    settings = {"seq_len": 64, "micro_batch_size": 8, "accumulate": False}
    measured = training_peak(spec, **settings).tensor_bytes
    assert training_memory(spec, **settings).total == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("architecture", "accumulate", "activation_checkpointing"),
    [
        *((name, True, True) for name in ARCHITECTURES),
        *(pytest.param(name, False, False, marks=pytest.mark.slow) for name in ARCHITECTURES),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dense", True, False), ("dense", False, True), ("moe", True, False), ("moe", False, True))
        ),
    ],
)
def test_training_matches_the_estimate(architecture: str, accumulate: bool, activation_checkpointing: bool) -> None:
    recipe = "classic" if accumulate else "modern"
    estimate, measured = (
        function(
            small_spec(architecture, recipe),
            seq_len=64,
            micro_batch_size=8,
            accumulate=accumulate,
            activation_checkpointing=activation_checkpointing,
        )
        for function in (training_memory, training_peak)
    )
    assert isinstance(estimate, Memory) and isinstance(measured, Measured)
    assert estimate.total == pytest.approx(measured.tensor_bytes, rel=TOLERANCE)


@pytest.mark.parametrize(
    "architecture",
    ["hybrid", pytest.param("dense", marks=pytest.mark.slow), pytest.param("moe", marks=pytest.mark.slow)],
)
def test_training_with_the_math_kernel_matches_the_estimate(architecture: str) -> None:
    """Torch's attention with gradients on MPS, at a context where its weights are most of the memory of dense."""
    spec, settings = small_spec(architecture), {"seq_len": 512, "micro_batch_size": 2, "accumulate": True}
    with sdpa_kernel(SDPBackend.MATH):
        measured = training_peak(spec, **settings).tensor_bytes
    assert training_memory(spec, **settings, math_attention=True).total == pytest.approx(measured, rel=0.05)
    if architecture != "hybrid":
        assert training_memory(spec, **settings).total < 0.6 * measured


@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
def test_inference_with_the_math_kernel_matches_the_estimate(architecture: str) -> None:
    spec = small_spec(architecture)
    with sdpa_kernel(SDPBackend.MATH):
        measured = inference_peaks(spec, context_len=64, batch_size=16)
    estimates = inference_memory(spec, context_len=64, batch_size=16, math_attention=True)
    for estimate, peak in zip(estimates, measured, strict=True):
        assert estimate.total == pytest.approx(peak.tensor_bytes, rel=TOLERANCE)


@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
def test_training_with_masks_matches_the_estimate(architecture: str) -> None:
    spec = small_spec(architecture)
    settings = {"seq_len": 256, "micro_batch_size": 4, "accumulate": False, "document_masking": True}
    assert training_memory(spec, **settings).total == pytest.approx(
        training_peak(spec, **settings).tensor_bytes, rel=0.05
    )


@pytest.mark.parametrize("memory", ["int8_moments", "bf16_weights", "lean"])
@pytest.mark.parametrize(
    "architecture",
    ["moe", pytest.param("dense", marks=pytest.mark.slow), pytest.param("hybrid", marks=pytest.mark.slow)],
)
def test_lean_training_matches_the_estimate(architecture: str, memory: str) -> None:
    spec, settings = small_spec(architecture), {"seq_len": 64, "micro_batch_size": 8, "accumulate": True}
    estimate = training_memory(spec, **settings, memory=memory).total
    assert estimate == pytest.approx(training_peak(spec, **settings, memory=memory).tensor_bytes, rel=0.05)
    assert estimate < training_memory(spec, **settings).total


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_training_with_dropout_matches_the_estimate(activation_checkpointing: bool) -> None:
    spec = small_spec("dense")
    settings: dict[str, Any] = {"seq_len": 64, "micro_batch_size": 16, "accumulate": False}
    settings["activation_checkpointing"] = activation_checkpointing
    estimate = training_memory(spec, **settings, dropout=0.1).total
    assert estimate == pytest.approx(training_peak(spec, **settings, dropout=0.1).tensor_bytes, rel=0.05)
    assert estimate > 1.04 * training_memory(spec, **settings).total


@pytest.mark.parametrize(
    ("architecture", "context_len"), [*((name, 64) for name in ARCHITECTURES), ("hybrid", 50), ("mamba1", 50)]
)
def test_inference_matches_the_estimate(architecture: str, context_len: int) -> None:
    spec = small_spec(architecture)
    estimates = inference_memory(spec, context_len=context_len, batch_size=16)
    measured = inference_peaks(spec, context_len=context_len, batch_size=16)
    for estimate, peak in zip(estimates, measured, strict=True):
        assert estimate.total == pytest.approx(peak.tensor_bytes, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dense", "mamba"])
def test_half_precision_is_within_the_estimate(architecture: str) -> None:
    spec, settings = small_spec(architecture), {"seq_len": 64, "micro_batch_size": 8, "accumulate": False}
    measured = training_peak(spec, precision="bf16", **settings).tensor_bytes
    estimate = training_memory(spec, precision="bf16", **settings).total
    assert measured < estimate < 1.6 * measured


@pytest.mark.slow
def test_separate_process_has_its_own_peak() -> None:
    spec, settings = small_spec("dense"), {"seq_len": 64, "micro_batch_size": 8, "accumulate": False}
    ballast = torch.ones(1 << 28)  # 1 GiB
    separate = measured_training_memory(spec, **settings)
    assert separate.tensor_bytes == training_peak(spec, **settings).tensor_bytes
    assert separate.tensor_bytes < separate.rss_bytes < ballast.nbytes


def matched_spec(architecture: str, size: str, recipe: str) -> ModelSpec:
    config = composed(architecture, recipe, f"size={size}")
    return match_size(
        config.architecture, config.size, config.recipe, vocab_size=4096, seq_len=512, match="active"
    ).spec


@pytest.mark.slow
@pytest.mark.parametrize(("size", "recipe"), [("micro", "modern"), ("micro", "classic"), ("mini", "modern")])
def test_real_sizes_match_the_estimate(size: str, recipe: str) -> None:
    """With and without activation checkpointing; `pytest -s` shows the table."""
    found: list[tuple[str, Memory, Measured]] = []
    for architecture in ARCHITECTURES:
        spec = matched_spec(architecture, size, recipe)
        for again in (False, True):
            settings = {"seq_len": 512, "micro_batch_size": 2, "accumulate": True, "activation_checkpointing": again}
            name = f"{architecture}{', activation checkpointing' if again else ''}"
            found.append((name, training_memory(spec, **settings), measured_training_memory(spec, **settings)))
        estimates = inference_memory(spec, context_len=512, batch_size=4)
        measured = measured_inference_memory(spec, context_len=512, batch_size=4)
        names = [f"{architecture}, {phase}" for phase in ("prefill", "decode")]
        found += zip(names, estimates, measured, strict=True)
    ratios = {name: estimate.total / peak.tensor_bytes for name, estimate, peak in found}
    rows = [[name, *map(show_bytes, (estimate.total, *peak)), f"{ratios[name]:.3f}"] for name, estimate, peak in found]
    print("\n", *table([f"{size} {recipe}", "estimate", "measured", "process", "ratio"], rows), sep="\n")
    assert ratios == {name: pytest.approx(1, abs=TOLERANCE) for name in ratios}
