"""The command prints the results of the formulas for one model or a grid, without torch, and writes nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src import estimate
from src.cli.command import run_cli
from src.config.schema import ROOT
from src.model.cost.memory_estimate import training_memory
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config, match_size
from tests.contract.small import composed
from tests.summaries import final, write_summary

FIXED_KEYS = (
    "total_params active_params embedding_params non_embedding_params train_flops_per_token state_bytes "
    "train_memory_bytes"
).split()


def output(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_cli(lambda: estimate.main(list(arguments))) == 0
    return capsys.readouterr().out


def as_json(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(output(*arguments, "format=json", capsys=capsys))


@pytest.mark.parametrize("architecture", ["dense", "mamba", "moe", "hybrid"])
def test_the_estimate_equals_the_formulas(architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"architecture={architecture}", "size=micro", capsys=capsys)
    config = composed(architecture, "modern", "size=micro")
    spec = match_size(
        config.architecture, config.size, config.recipe, vocab_size=4096, seq_len=512, match=config.match
    ).spec
    cost = model_cost(spec, 512)
    memory = training_memory(spec, seq_len=512, micro_batch_size=8, accumulate=True)
    assert {key: found[key] for key in FIXED_KEYS} == {
        **{key: getattr(cost, key) for key in FIXED_KEYS[:-1]},
        "train_memory_bytes": memory.total,
    }
    assert sum(found["train_memory"].values()) == found["train_memory_bytes"]
    assert sum(part["params"] for part in found["components"].values()) == found["total_params"]
    assert [row["context_len"] for row in found["contexts"]] == [256, 1024, 4096, 16384, 65536]
    assert found["tokens"] == 10_000_000 // (16 * 512) * 16 * 512
    assert found["tokens_per_second"] is None and found["time_s"] is None


def test_the_largest_micro_batch_depends_on_memory_and_recomputation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = as_json("size=medium", "recipe=classic", "tokenizer=bpe_32k", capsys=capsys)
    largest = [found["devices"][f"{gib} GB Mac"]["largest_micro_batch"] for gib in (16, 32, 48)]
    recomputed = [
        found["devices"][f"{gib} GB Mac"]["largest_micro_batch_with_activation_checkpointing"] for gib in (16, 32, 48)
    ]
    assert largest == sorted(largest) and largest[0] < largest[-1]
    assert all(more >= plain for plain, more in zip(largest, recomputed, strict=True)) and recomputed[0] > largest[0]
    arguments = ("size=medium", "recipe=classic", "tokenizer=bpe_32k")
    for name, device in found["devices"].items():
        runtime = "runtime=mps" if "Mac" in name else "runtime=cpu"
        assert device["fits"] == (
            as_json(*arguments, runtime, capsys=capsys)["train_memory_bytes"] <= device["available_bytes"]
        )
        batch = f"training.micro_batch_size={device['largest_micro_batch']}"
        repeated = as_json(*arguments, runtime, batch, capsys=capsys)
        assert repeated["train_memory_bytes"] <= device["available_bytes"]


def test_macs_keep_the_weights_of_attention(capsys: pytest.CaptureFixture[str]) -> None:
    """B x H x T x T floats a layer in training; the other floats per token differ by at most five rows of d_model."""
    arguments = ("size=large", "tokenizer=bpe_32k", "training.micro_batch_size=4")
    mac, cpu = (as_json(*arguments, f"runtime={name}", capsys=capsys) for name in ("mps", "cpu"))
    spec = match_config(composed("dense", "modern", "size=large", "tokenizer=bpe_32k")).spec
    weights = 4 * 4 * spec.n_heads * 1024**2 * spec.blocks.count("attention")
    difference = mac["train_memory_bytes"] - cpu["train_memory_bytes"]
    assert difference == pytest.approx(weights, rel=0.3) and difference > 11e9
    assert (mac["math_attention"], cpu["math_attention"]) == (True, False)
    assert mac["devices"]["48 GB Mac"] == cpu["devices"]["48 GB Mac"]
    assert "attention keeps its weights" in output(*arguments, "runtime=mps", capsys=capsys)


def test_memory_of_several_devices_is_that_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    """In shards by default; parameters, gradients and optimizer are divided, activations are not."""
    arguments = ("size=medium", "tokenizer=bpe_32k", "runtime=cpu", "training.micro_batch_size=2")
    more = (*arguments, "training.global_batch_size=32")
    one, whole, divided = (
        as_json(*more, *extra, capsys=capsys)
        for extra in ([], ["n_devices=8", "runtime.parallel=replicate"], ["n_devices=8"])
    )
    assert whole["train_memory"] == one["train_memory"]
    for part in ("weights", "gradients", "optimizer"):
        assert divided["train_memory"][part] == one["train_memory"][part] // 8
    assert divided["train_memory"]["activations"] == one["train_memory"]["activations"]
    assert divided["train_memory_bytes"] < one["train_memory_bytes"]
    assert list(divided["devices"]) == ["8 GPUs of 24 GB", "8 GPUs of 80 GB"]
    assert divided["devices"]["8 GPUs of 24 GB"]["largest_micro_batch"] == 4, "32 sequences for 8 devices"
    text = output(*more, "n_devices=8", capsys=capsys)
    assert "Training memory of each of 8 devices, in shards, at micro batch 2, fp32: " in text
    table = output("-m", *arguments, "training.global_batch_size=32", "n_devices=1,8", capsys=capsys)
    assert "n_devices=8" in table


def test_auto_is_the_largest_micro_batch_by_the_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "machine_bytes", lambda: 4 << 30)
    arguments = ("size=micro", "training.micro_batch_size=auto", "training.global_batch_size=64")
    found = as_json(*arguments, capsys=capsys)
    device = found["devices"]["this machine"]
    assert found["micro_batch_size_asked"] == "auto"
    assert 1 < found["micro_batch_size"] == device["largest_micro_batch"] < 64
    assert found["train_memory_bytes"] <= device["available_bytes"] and device["fits"]
    expected = f"micro batch {found['micro_batch_size']} (auto), fp32"
    assert expected in output(*arguments, capsys=capsys)


def test_learned_positions_limit_the_contexts(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json("size=micro", "recipe=classic", "recipe.max_seq_len=2048", capsys=capsys)
    assert [row["context_len"] for row in found["contexts"]] == [256, 1024]


def test_time_is_tokens_over_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = as_json("size=nano", "training.max_tokens=1000000", "tokens_per_second=500", capsys=capsys)
    assert given["time_s"] == given["tokens"] / 500
    write_summary(tmp_path, final=final(1000.0), accounting={"train_flops_per_token": 1e7})
    measured = as_json("size=micro", f"measured={tmp_path}", capsys=capsys)
    assert measured["tokens_per_second"] == pytest.approx(1e10 / measured["train_flops_per_token"])
    assert "tokens/s" in output("size=micro", f"measured={tmp_path}", capsys=capsys)


def test_a_grid_is_a_table_with_one_row_per_job(capsys: pytest.CaptureFixture[str]) -> None:
    """The error of a job without a model is below the table."""
    text = output("-m", "architecture=dense,jamba", "size=nano,micro", "recipe=classic", capsys=capsys)
    assert "recipe=classic" not in text, "common settings are omitted"
    rows = [line for line in text.splitlines() if line.startswith("| architecture=")]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1
    assert "architecture=jamba size=nano: architecture.n_blocks=8: too few for the pattern of 16 blocks" in text
    found = as_json("-m", "architecture=dense,jamba", "size=nano,micro", capsys=capsys)["estimates"]
    assert found[0]["overrides"] == ["architecture=dense", "size=nano", "format=json"]
    assert ["error" in row for row in found] == [False, False, True, False]


def test_text_output_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("architecture=moe", "size=micro", "tokens_per_second=1000", capsys=capsys)
    for expected in (
        "moe x 8",
        "attention x 8",
        "Training memory at micro batch 8",
        "48 GB Mac",
        "this machine",
        "at 1,000",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["architecture=mixtral"], "architecture=mixtral: no such choice"),
        (["size=nano,micro"], "add -m"),
        (["format=xml"], "format=xml: must be one of text, json"),
        (["tokens_per_second=0"], "tokens_per_second=0.0: must be greater than 0"),
        (["context_lens=[]"], "context_lens: empty"),
        (["context_lens=[0]"], "context_lens=0: must be greater than 0"),
        (["measured=/nowhere"], "measured=/nowhere: no summary.json with a speed there"),
        (["architecture=jamba", "size=nano"], "too few for the pattern"),
        (["n_devices=8", "runtime=mps"], "n_devices=8: several processes cannot share an Apple GPU"),
        (["n_devices=3"], "training.global_batch_size=8: must be a multiple of the 3 processes"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: estimate.main(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_measured_run_without_a_speed_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(tmp_path, final=None)
    assert run_cli(lambda: estimate.main([f"measured={tmp_path}"])) == 2
    assert "no summary.json with a speed" in capsys.readouterr().err


def test_neither_torch_nor_pandas_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from src.estimate import main; status = main(['architecture=hybrid', 'size=large']); "
        "sys.exit(status or bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
