"""The benchmark: measurements, limits of memory and time, ratios and growth."""

import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import ModelSpec
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config
from src.profiling import actions, benchmark
from src.profiling.actions import REPEATS, Case, build_action
from src.profiling.baselines import Baseline, baseline_names, build_baseline
from src.profiling.benchmark import (
    bytes_read,
    compare_speeds,
    fit_growth,
    measure_point,
    measure_series,
    time_interleaved,
)
from src.profiling.step_profile import profile_step
from tests.contract.small import CPU
from tests.test_benchmark import composed

KILLED = "its process was killed, likely for its memory,"


def point(phase: str, context_len: int, speed: float, model: str = "ours", peak: int = 1) -> dict[str, Any]:
    return {
        "phase": phase,
        "model": model,
        "context_len": context_len,
        "tokens_per_second": speed,
        "peak_bytes": peak,
    }


def test_growth_is_the_exponent_of_the_cost() -> None:
    points = [point("train", length, 1e6 / length**0.5) for length in (1024, 4096, 16384)]
    points += [point("train", 256, 1.0), point("train", 2048, 9.0, "hf_llama"), point("decode", 1024, 5.0)]
    fit = fit_growth(points)
    assert fit.keys() == {"train"}
    assert fit["train"]["exponent"] == pytest.approx(0.5) and fit["train"]["ratio"] == pytest.approx(4)
    assert (fit["train"]["from"], fit["train"]["to"]) == (1024, 16384)


def test_speeds_are_relative_to_the_baseline() -> None:
    points = [point("train", 256, 30.0, peak=20), point("train", 256, 10.0, "hf_llama", 80), point("train", 512, 1.0)]
    points += [point("decode", 256, 8.0), point("decode", 256, 2.0, "hf_llama")]
    found = compare_speeds([{"architecture": "dense", "points": points}], 256)
    assert found["train"] == {"dense/hf_llama": 3.0} and found["decode"] == {"dense/hf_llama": 4.0}
    assert found["train_memory"] == {"dense/hf_llama": 0.25} and not found["prefill"]
    found = compare_speeds(
        [{"architecture": "dense", "points": [*points, point("train", 256, 40.0, "compiled", 5)]}], 256
    )
    speeds = {"dense/hf_llama": 3.0, "dense compiled/hf_llama": 4.0, "dense compiled/ours": pytest.approx(4 / 3)}
    assert found["train"] == speeds and found["train_memory"]["dense compiled/ours"] == 0.25


@pytest.mark.slow
def test_recomputing_is_measured_beside_our_model(tmp_path: Path) -> None:
    config = composed("architecture=dense", "runtime.activation_checkpointing=true")
    found = measure_point(config, match_config(config).spec, 32, ["train", "prefill"], [], tmp_path)
    assert [(one["phase"], one["model"]) for one in found["points"]] == [
        ("train", "ours"), ("train", "recomputing"), ("prefill", "ours"),
    ]  # fmt: skip
    ours, recomputing, _ = found["points"]
    assert recomputing["peak_bytes"] < ours["peak_bytes"]
    compared = compare_speeds([{"architecture": "dense", "points": found["points"]}], 32)
    assert compared["train"].keys() == compared["train_memory"].keys() == {"dense recomputing/ours"}


def test_actions_are_interleaved_and_slow_ones_run_once() -> None:
    calls: list[str] = []
    actions = {
        "a": lambda: calls.append("a"),
        "slow": lambda: (calls.append("s"), time.sleep(0.05)),
        "b": lambda: calls.append("b"),
    }
    found = time_interleaved(actions, CPU, max_seconds=0.02)
    assert "".join(calls) == "aassbb" + "ab" * REPEATS
    assert [len(times) for times in found.values()] == [REPEATS, 1, REPEATS]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dense", "mamba", "mamba1", "moe", "hybrid"])
def test_point_of_every_architecture_with_baselines(architecture: str, tmp_path: Path) -> None:
    config = composed(f"architecture={architecture}", "peers=true")
    spec = match_config(config).spec
    found = measure_point(config, spec, 32, ["train", "prefill", "decode"], baseline_names(spec), tmp_path)
    names = ["ours", *baseline_names(spec)]
    assert [(one["phase"], one["model"]) for one in found["points"]] == [
        (phase, name) for phase in benchmark.PHASES for name in names
    ]
    cost = model_cost(spec, 32)
    ours = {one["phase"]: one for one in found["points"] if one["model"] == "ours"}
    assert ours["train"]["flops_per_second"] == ours["train"]["tokens_per_second"] * cost.train_flops_per_token
    assert ours["prefill"]["flops_per_second"] == ours["prefill"]["tokens_per_second"] * cost.forward_flops_per_token
    assert ours["decode"]["state_bytes"] == ours["decode"]["state_bytes_by_formula"] == cost.state_bytes
    assert all(one["peak_bytes"] > 0 for one in found["points"]) and not found["ended"]
    copied = found["limits"][-1]["memory_bytes_per_second"]
    assert ours["decode"]["share_of_memory"] == ours["decode"]["bytes_per_second"] / copied
    assert ours["train"]["tokens"] == config.training.micro_batch * config.training.seq_len


def test_a_slow_step_is_shrunk_until_each_side_has_its_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine that takes 1 s for 512 tokens of a peer, and less for ours."""
    clock = [0.0]

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    def build(phase: str, name: str, rows: int, *rest: Any) -> actions.Action:
        rate = {"ours": 1024, "hf_llama": 512}[name]
        tokens = rows * (1 if phase == "decode" else 16)
        return actions.Action(lambda: pass_time(tokens / rate * (40 if phase == "decode" else 1)), tokens)

    monkeypatch.setattr(benchmark, "build_action", build)
    monkeypatch.setattr(
        benchmark, "_limit_actions", lambda device: dict.fromkeys(("gemm", "copy"), lambda: pass_time(1))
    )
    monkeypatch.setattr(benchmark, "_peak_bytes", lambda action, device: 1)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    config = composed("training.micro_batch_size=64", "training.global_batch_size=64", "point_seconds=5")
    found = measure_point(config, match_config(config).spec, 16, list(benchmark.PHASES), ["hf_llama"], tmp_path)
    shown = [(p["phase"], p["model"], p["tokens"], p["shrunk_from"], p["turns"]) for p in found["points"]]
    assert shown == [
        ("train", "ours", 400, 2048, REPEATS),
        ("train", "hf_llama", 400, 2048, REPEATS),
        ("prefill", "ours", 16, None, REPEATS),
        ("prefill", "hf_llama", 16, None, REPEATS),
        ("decode", "ours", 10, 32, REPEATS),
        ("decode", "hf_llama", 10, 32, REPEATS),
    ]
    gemm, copied = benchmark.GEMMS * 2 * benchmark.GEMM_WIDTH**3, 8 * benchmark.COPIED_FLOATS
    assert found["limits"] == [{"gemm_flops_per_second": gemm, "memory_bytes_per_second": copied}] * 3
    assert found["points"][0]["share_of_gemm"] == found["points"][0]["flops_per_second"] / gemm


@pytest.mark.parametrize("keep", [True, False])
def test_baselines_can_use_the_default_allocator(keep: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only while a baseline runs: our model always has the policy."""
    calls: list[bool] = []
    monkeypatch.setattr(actions, "keep_freed_memory", lambda keep=True: calls.append(keep))
    config = composed("architecture=dense", "peers=true", f"peers_keep_memory={keep}")
    case = Case(config, match_config(config).spec, 16, CPU, tmp_path)
    for phase in benchmark.PHASES:
        for name in ("ours", "hf_llama"):
            build_action(phase, name, 1, case).run()
            expected = [False, True] if name == "hf_llama" and not keep else []
            assert calls == expected
            calls.clear()


def test_baselines_have_our_shape() -> None:
    for architecture in ("dense", "mamba", "moe", "hybrid"):
        spec = match_config(composed(f"architecture={architecture}")).spec
        n_weights = sum(weight.numel() for weight in build_baseline(baseline_names(spec)[0], spec).model.parameters())
        assert n_weights == model_cost(spec, 32).total_params


def test_decoding_reads_weights_once_and_only_used_experts() -> None:
    spec = match_config(composed("architecture=moe")).spec
    cost = model_cost(spec, 64)
    table = 4 * spec.vocab_size * spec.d_model
    assert bytes_read(spec, cost, 1) == 4 * cost.active_params - table + cost.state_bytes
    assert bytes_read(spec, cost, 1000) == pytest.approx(4 * cost.total_params - table + 1000 * cost.state_bytes)
    two = bytes_read(spec, cost, 2) - bytes_read(spec, cost, 1) - cost.state_bytes
    assert two == pytest.approx(4 * (cost.total_params - cost.active_params) * spec.top_k / spec.n_experts)


def test_series_ends_at_the_limits_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(composed(), context_lens=[512, 256, 1024, 2048])

    def run_in_subprocess(action: Any, max_bytes: int) -> dict[str, Any]:
        _, _, context_len, phases, *_ = action.args
        if context_len == 1024:
            raise BrokenProcessPool
        slow = {"train": "one call takes more than 1 s"} if context_len == 512 else {}
        points = [point(phase, context_len, 1.0) for phase in phases if phase not in slow]
        limits = {"gemm_flops_per_second": float(context_len), "memory_bytes_per_second": 1.0}
        return {"points": points, "limits": [limits], "ended": slow}

    monkeypatch.setattr(benchmark, "run_in_subprocess", run_in_subprocess)
    *earlier, found = measure_series(config, match_config(config).spec, lambda line: None)
    assert len(earlier) == 2, "the results after 256 and after 512"
    assert [(one["phase"], one["context_len"]) for one in found["points"]] == [
        ("train", 256), ("prefill", 256), ("decode", 256), ("prefill", 512), ("decode", 512),
    ]  # fmt: skip
    assert found["ended"] == {
        "train": "one call takes more than 1 s at 512",
        "prefill": f"{KILLED} at 1,024",
        "decode": f"{KILLED} at 1,024",
    }
    assert found["machine"]["gemm_flops_per_second"] == 384


@pytest.mark.slow
def test_decoding_ends_at_the_last_learned_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """It continues after the context, so it needs more positions than the other phases."""
    config = composed("recipe=classic", "recipe.max_seq_len=64", "context_lens=[32,64,128]", "training.seq_len=64")
    spec = match_config(config).spec
    measured: list[tuple[int, list[str]]] = []

    def run_in_subprocess(action: Any, max_bytes: int) -> dict[str, Any]:
        _, _, context_len, phases, *_ = action.args
        measured.append((context_len, phases))
        limits = {"gemm_flops_per_second": 1.0, "memory_bytes_per_second": 1.0}
        return {"points": [point(phase, context_len, 1.0) for phase in phases], "limits": [limits], "ended": {}}

    monkeypatch.setattr(benchmark, "run_in_subprocess", run_in_subprocess)
    *_, found = measure_series(config, spec, lambda line: None)
    assert measured == [(32, ["train", "prefill"]), (64, ["train", "prefill"])]
    assert found["ended"] == dict.fromkeys(benchmark.PHASES, "learned positions end at 64")
    assert profile_step(config, spec)["decoding"]["operators"], "with as many positions as exist"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_baselines_train_in_our_precision(precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bool] = []

    def build(name: str, spec: ModelSpec) -> Baseline:
        baseline = build_baseline(name, spec)
        return baseline._replace(
            loss=lambda tokens: (seen.append(torch.is_autocast_enabled("cpu")), baseline.loss(tokens))[1]
        )

    monkeypatch.setattr(actions, "build_baseline", build)
    config = composed("architecture=dense", "peers=true")
    case = Case(config, match_config(config).spec, 16, replace(CPU, precision=precision), tmp_path)
    build_action("train", "hf_llama", 4, case).run()
    assert seen == [precision == "bf16"]


def test_baseline_out_of_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("architecture=mamba", "peers=true", "context_lens=[16]")
    measured: list[list[str]] = []

    def run_in_subprocess(action: Any, max_bytes: int) -> dict[str, Any]:
        measured.append(action.args[-2])
        if "mambapy" in measured[-1]:
            raise BrokenProcessPool
        return {"points": [point("train", 16, 1.0)], "limits": [{"gemm_flops_per_second": 1.0}], "ended": {}}

    monkeypatch.setattr(benchmark, "ENGINES", {})
    monkeypatch.setattr(benchmark, "engine_refusals", lambda config, spec: {})
    monkeypatch.setattr(benchmark, "run_in_subprocess", run_in_subprocess)
    *_, found = measure_series(config, match_config(config).spec, lambda line: None)
    assert measured == [["hf_mamba2", "mambapy"], ["hf_mamba2"]]
    assert found["ended"] == {"mambapy": f"{KILLED} at 16"} and len(found["points"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("peers", [True, False])
def test_allocator_error_removes_the_baseline_first(peers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator raises an error, as on a GPU, instead of the process being killed."""

    def build(phase: str, name: str, *rest: Any) -> actions.Action:
        if name != "ours" or not peers:
            raise torch.OutOfMemoryError("out of memory")
        return actions.Action(lambda: None, 16)

    monkeypatch.setattr(benchmark, "build_action", build)
    monkeypatch.setattr(benchmark, "ENGINES", {})
    monkeypatch.setattr(benchmark, "engine_refusals", lambda config, spec: {})
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda action, max_bytes: action())
    config = composed("context_lens=[16]", f"peers={peers}", "runtime.device=cpu")
    *_, found = measure_series(config, match_config(config).spec, lambda line: None)
    models = {point["model"] for point in found["points"]}
    if peers:
        assert found["ended"] == {"hf_llama": "out of memory at 16"} and models == {"ours"}
    else:
        assert set(found["ended"].values()) == {"out of memory at 16"} and not models


def test_profile_counts_blocks_operators_and_synchronizations() -> None:
    config = composed("architecture=moe_hybrid")
    spec = match_config(config).spec
    found = profile_step(config, spec)
    counts = {name: part["count"] for name, part in found["parts"].items() if name in spec.blocks}
    assert counts == {kind: spec.blocks.count(kind) for kind in set(spec.blocks)}
    assert {"head and loss", "clipping and optimizer"} <= found["parts"].keys()
    assert sum(operator["share"] for operator in found["operators"]) <= 1 and found["operator_calls"] > 200
    assert {place.partition(":")[0] for place in found["waits"]} == {"src/model/blocks/moe/module.py"}
