"""Models in shards: any number of processes reads what any other number wrote, and damage is found."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.config.schema import ROOT, UserError
from src.training.checkpoint import load_weights, read_checkpoint
from tests.contract.small import CPU, small_model
from tests.integration import tiny
from tests.training import parallel_worker


def launch(n: int, action: str, folder: Path, architecture: str) -> "subprocess.Popen[str]":
    arguments = ["--nproc-per-node", str(n), "-m", "tests.training.parallel_worker", action, str(folder), architecture]
    return tiny.start(arguments, "torch.distributed.run")


def finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["hybrid", "moe"])
def test_any_number_of_processes_reads_shards(architecture: str, tmp_path: Path) -> None:
    finish(launch(3, "write", tmp_path, architecture))
    files = sorted(file.name for file in (tmp_path / "sharded").iterdir())
    shards = [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2, 3)]
    assert files == ["meta.json", *shards, "state.pt"]
    assert sorted(file.name for file in (tmp_path / "best").iterdir()) == ["meta.json", "model.safetensors"]

    one = parallel_worker.build_state(architecture, CPU, seed=1)
    parallel_worker.restore(tmp_path / "sharded", one, CPU)
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    parallel_worker.compare(parallel_worker.all_tensors(one, CPU), whole)
    loss = parallel_worker.train(one, CPU, 1)
    (found,) = [line for line in finish(launch(2, "read", tmp_path, architecture)).splitlines() if "loss" in line]
    assert float(found.split()[1]) == pytest.approx(loss, abs=1e-5)
    _check_damage(tmp_path / "sharded", architecture)


def _check_damage(folder: Path, architecture: str) -> None:
    """A changed byte, a missing shard and one too many each give one line."""
    info, model = read_checkpoint(folder), small_model(architecture)
    file = folder / "shard-00002-model-00001-of-00001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"shard-00002.*damaged: its SHA-256"):
        load_weights(info, model)
    file.unlink()
    with pytest.raises(UserError, match=r"shard-00002.*cannot be read"):
        load_weights(info, model)
    file.write_bytes(content)
    (folder / "shard-00004-model-00001-of-00001.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00004.*not a file of this checkpoint"):
        load_weights(info, model)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_a_run_imports_neither_the_compiler_nor_what_several_processes_need(
    optimizer: str, data: Path, tmp_path: Path
) -> None:
    """Each takes a second or two of every start."""
    names = "{'torch._dynamo', 'torch.distributed.fsdp', 'torch.distributed.tensor', 'torch.distributed.checkpoint'}"
    code = f"import sys, src.train; assert not src.train.main(sys.argv[1:]); sys.exit(bool({names} & set(sys.modules)))"
    arguments = tiny.command_line(data, tmp_path, f"optimizer={optimizer}", "architecture=dense")
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
