"""Memory and disk are checked before training; an out-of-memory error suggests settings that fit."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.config.schema import TrainConfig, UserError
from src.model.cost.memory_estimate import checkpoint_bytes
from src.model.size_matching import match_config
from src.runs import resource_check
from src.runs.resource_check import (
    check_disk,
    check_gpu_memory,
    check_memory,
    largest_by_estimate,
    memory_needed,
    resolve_parallel,
    suggest_settings,
    with_micro_batch,
)
from src.runtime import host
from src.runtime.device import is_out_of_memory
from src.runtime.host import PROCESS_BYTES, RankInfo
from tests.contract.small import composed, small_spec
from tests.integration import tiny

GIB = 1 << 30


@pytest.fixture
def config() -> TrainConfig:
    return composed(
        "dense", "modern", "size=medium", "tokenizer=bpe_32k", "training.micro_batch_size=16", "runtime=cpu"
    )


def apply_suggestion(config: TrainConfig, text: str) -> TrainConfig:
    """Apply the settings that a message suggests."""
    for item in text.split():
        key, _, value = item.partition("=")
        section, _, name = key.partition(".")
        changed = replace(getattr(config, section), **{name: yaml.safe_load(value)})
        config = replace(config, **{section: changed})
    return config


def test_largest_micro_batch_is_the_largest_that_fits() -> None:
    spec = small_spec("hybrid")
    config = composed("hybrid", "modern", "training.global_batch_size=12", "size.seq_len=64")
    needed = {size: memory_needed(with_micro_batch(config, size), spec).total for size in (1, 2, 3, 4, 6, 12)}

    def largest(available_bytes: int, again: bool = False) -> int:
        return largest_by_estimate(config, spec, available_bytes, activation_checkpointing=again)

    assert {size: largest(n_bytes) for size, n_bytes in needed.items()} == {size: size for size in needed}
    assert largest(needed[4] - 1) == 3
    assert largest(needed[1] - 1) == 0
    assert largest(needed[3], again=True) > 3


@pytest.mark.parametrize("gib", [8, 16, 24, 32])
def test_every_suggested_setting_fits(gib: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = match_config(config).spec
    monkeypatch.setattr(resource_check, "machine_bytes", lambda: gib * GIB)
    with pytest.raises(UserError) as error:
        check_memory(config, spec)
    message = str(error.value)
    assert message.startswith("training.micro_batch_size=16: training needs about ") and "\n" not in message
    suggestions = message.partition("for example ")[2].split(", or ")
    assert 1 <= len(suggestions) <= 3 and len(set(suggestions)) == len(suggestions)
    for suggestion in suggestions:
        changed = apply_suggestion(config, suggestion)
        assert memory_needed(changed, match_config(changed).spec).total <= gib * GIB - PROCESS_BYTES
        check_memory(changed, match_config(changed).spec)


def test_a_smaller_size_is_suggested_if_one_sequence_does_not_fit(config: TrainConfig) -> None:
    assert suggest_settings(config, match_config(config).spec, 1 << 20) == (
        "; not even one sequence fits: choose a smaller size"
    )


def test_auto_is_an_error_if_one_sequence_does_not_fit(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = match_config(config).spec
    auto = replace(config, training=replace(config.training, micro_batch_size="auto"))
    one = memory_needed(with_micro_batch(config, 1), spec).total + PROCESS_BYTES
    monkeypatch.setattr(resource_check, "machine_bytes", lambda: one)
    check_memory(auto, spec)
    monkeypatch.setattr(resource_check, "machine_bytes", lambda: one - 1)
    with pytest.raises(UserError, match=r"^training\.micro_batch_size=1: training needs .*; for example runtime\.act"):
        check_memory(auto, spec)


def test_a_model_that_does_not_fit_each_process_is_divided(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, one = match_config(config).spec, with_micro_batch(config, 1)
    needed = memory_needed(one, spec)
    assert resolve_parallel(one, spec, 0).runtime.parallel == "replicate"  # a single process
    monkeypatch.setattr(host, "read_rank_info", lambda: RankInfo(0, 4, 0, 4))
    assert resolve_parallel(one, spec, needed.total).runtime.parallel == "replicate"
    divided = resolve_parallel(one, spec, needed.total - 1)
    assert divided.runtime.parallel == "shard"
    parts = memory_needed(divided, spec)
    assert parts.total < needed.total - 2 * needed.optimizer // 3
    assert (parts.weights, parts.optimizer) == (needed.weights // 4, needed.optimizer // 4)
    whole = replace(one, runtime=replace(one.runtime, parallel="replicate"))
    assert resolve_parallel(whole, spec, 0) is whole
    assert suggest_settings(whole, spec, parts.total).startswith("; for example runtime.parallel=shard")
    assert "lean" not in suggest_settings(whole, spec, parts.total)


def test_a_device_with_dedicated_memory_is_not_checked(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_check, "machine_bytes", lambda: 1)
    check_memory(replace(config, runtime=replace(config.runtime, device="cuda")), match_config(config).spec)
    monkeypatch.setattr(host, "NVIDIA_DRIVER", Path("/"))
    check_memory(replace(config, runtime=replace(config.runtime, device="auto")), match_config(config).spec)


def test_what_is_free_of_the_gpu_is_checked_where_the_run_has_it(config: TrainConfig) -> None:
    """In half precision the estimate is up to twice the memory, so half of it has to fit."""
    spec = match_config(config).spec
    for precision, part in (("fp32", 1), ("bf16", 2)):
        asked = replace(config, runtime=replace(config.runtime, precision=precision))
        needed = memory_needed(asked, spec).total
        check_gpu_memory(asked, spec, -(-needed // part))
        with pytest.raises(UserError) as error:
            check_gpu_memory(asked, spec, needed // part - 1)
        message = str(error.value)
        assert message.startswith("training.micro_batch_size=16: training needs ") and "\n" not in message
        assert ("up to about" in message) == (
            part == 2
        ) and "GB free; for example training.micro_batch_size=8" in message


def test_a_full_disk_is_an_error_before_training(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, sizes = match_config(config).spec, checkpoint_bytes(match_config(config).spec)

    def disk(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 50, 0, free))  # pyright: ignore

    disk(sizes.best + 2 * sizes.last)
    check_disk(config, spec, tmp_path / "runs" / "a")
    disk(sizes.best + 2 * sizes.last - 1)
    with pytest.raises(UserError, match=re.escape("output_root=outputs: the checkpoints of this run take up to ")):
        check_disk(config, spec, tmp_path / "runs" / "a")
    written = tmp_path / "runs" / "a" / "checkpoints" / "language" / "best"
    written.mkdir(parents=True)
    (written / "model.safetensors").write_bytes(b"x")
    check_disk(config, spec, tmp_path / "runs" / "a")


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GiB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_of_each_device_are_recognized(error: Exception, meant: bool) -> None:
    assert is_out_of_memory(error) == meant


def test_out_of_memory_is_a_one_line_error_with_suggestions(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command resumes from the last checkpoint when there is enough memory."""
    from src.training import loop

    data, real, steps = tiny.data_dir(tmp_path_factory), loop.train_step, iter(range(100))

    def fail(*arguments: Any, **settings: Any) -> Any:
        if next(steps) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.\nDetails")
        return real(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", fail)
        assert tiny.run(data, tmp_path) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: training.micro_batch_size=2: out of memory; training needs about ")
    assert (
        "can't allocate memory" in message
        and "for example training.micro_batch_size=1" in message
        and message.count("\n") == 1
    )
    summary = json.loads((tiny.only_run(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["error"].startswith("training.micro_batch_size=2: out of memory")
    assert tiny.run(data, tmp_path) == 0
    assert "Resuming stage language after step 2" in capsys.readouterr().out


def test_a_missing_deterministic_form_is_one_line(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from src.training import loop

    def fail(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...\nDetails")

    monkeypatch.setattr(loop, "train_step", fail)
    try:
        assert tiny.run(tiny.data_dir(tmp_path_factory), tmp_path, "runtime.deterministic=true") == 2
    finally:
        torch.use_deterministic_algorithms(False)
    message = capsys.readouterr().err
    assert message.startswith("error: runtime.deterministic=true: cumsum_cuda_kernel does not have a deterministic ")
    assert message.count("\n") == 1
