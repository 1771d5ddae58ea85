"""mlx-lm and llama.cpp beside our model: equal greedy tokens, speeds, and one line where an engine cannot decode."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import SamplingConfig
from src.inference.generation import generate
from src.model.size_matching import match_config
from src.profiling import benchmark, engines
from src.profiling.actions import DECODED_TOKENS, MAX_CALLS, Case, build_action
from src.profiling.engines import ENGINES, Decode, Engine, EngineFailure, Start, engine_refusals, start_engine
from src.reporting.plots.benchmark import describe
from tests.contract.small import CPU
from tests.huggingface.cases import model_of, spec_of, tokens_of
from tests.test_benchmark import composed

PACKAGES = [package for engine in ENGINES.values() for package in engine.packages]


def start_ours(start: Start, folder: Path) -> Decode:
    """Decode with our own model."""
    assert folder.is_dir()
    tokens = generate(start.model, start.prompt, SamplingConfig(start.n_tokens, 0.0))
    return lambda n: [next(tokens) for _ in range(n)]


def start_other(start: Start, folder: Path) -> Decode:
    """Decode with our own model, but get the third token wrong."""
    tokens = start_ours(start, folder)(DECODED_TOKENS * (MAX_CALLS - 1))
    tokens[2] = (tokens[2] + 1) % start.model.spec.vocab_size
    return lambda n: [tokens.pop(0) for _ in range(n)]


def fail(start: Start, folder: Path) -> Decode:
    raise AttributeError("no such class")


def fail_later(start: Start, folder: Path) -> Decode:
    """Decode for the check of the tokens, and fail in the first turn."""
    decode, calls = start_ours(start, folder), iter([True])
    return lambda n: decode(n) if next(calls, False) else decode(n)[1:]


def install(monkeypatch: pytest.MonkeyPatch, **starts: Callable[[Start, Path], Decode]) -> list[str]:
    """Replace the engines; returns their names."""
    for name in list(ENGINES):
        monkeypatch.delitem(ENGINES, name)
    for name, start in starts.items():
        monkeypatch.setitem(ENGINES, name, Engine((), lambda spec: None, start))
    return [*starts]


@pytest.mark.slow
def test_engines_only_decode_and_their_first_tokens_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = install(monkeypatch, right=start_ours, wrong=start_other)
    config = composed("architecture=dense", "peers=true")
    spec = match_config(config).spec
    found = benchmark.measure_point(config, spec, 16, ["prefill", "decode"], names, tmp_path)
    assert [(point["phase"], point["model"]) for point in found["points"]] == [
        ("prefill", "ours"), ("decode", "ours"), ("decode", "right"), ("decode", "wrong"),
    ]  # fmt: skip
    _, ours, right, wrong = found["points"]
    assert "first_difference" not in ours
    assert (right["first_difference"], wrong["first_difference"]) == (None, 2)
    assert right["tokens"] == ours["tokens"] == DECODED_TOKENS and right["peak_bytes"] is None
    assert not list(tmp_path.iterdir()), "the files of the engines are removed"
    line = "dense nano, moe nano: decoding of wrong at 16: greedy token 3 is another than ours, with the same weights"
    shown = describe(as_benchmark(found["points"], {}))
    assert f"{line} and prompt" in shown and "of right at" not in shown


def as_benchmark(points: list[dict[str, Any]], ended: dict[str, str]) -> dict[str, Any]:
    series = {"architecture": "dense", "size": "nano", "points": points, "ended": ended, "growth": {}, "machine": {}}
    kinds = ("ratios", "ratios_prefill", "ratios_decode", "ratios_train_memory")
    ratios = {kind: dict[str, float]() for kind in kinds}
    head = {"device": "cpu", "precision": "fp32", "threads": 1, "versions": {"torch": ""}}
    return {**head, "train_tokens": 1, "batch_size": 1, "series": [series, {**series, "architecture": "moe"}], **ratios}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (fail, "cannot run this model (AttributeError: no such class)"),
        (fail_later, "cannot run this model (ValueError: it wrote 31 tokens instead of 32)"),
    ],
)
def test_an_engine_that_fails_is_left_out(
    start: Callable[[Start, Path], Decode], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, works=start_ours, fails=start)
    monkeypatch.setattr(benchmark, "baseline_names", lambda spec: [])
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda action, max_bytes: action())
    monkeypatch.setattr(benchmark, "PHASES", ("decode",))
    config = composed("architecture=dense", "peers=true", "context_lens=[16,32]")
    *_, found = benchmark.measure_series(config, match_config(config).spec, lambda line: None)
    assert found["ended"] == {"fails": f"{reason} at 16"}
    assert [(point["model"], point["context_len"]) for point in found["points"]] == [
        ("ours", 16), ("works", 16), ("ours", 32), ("works", 32),
    ]  # fmt: skip
    assert f"dense nano, moe nano: fails left out: {reason} at 16" in describe(as_benchmark([], found["ended"]))


def test_memory_that_runs_out_in_an_engine_is_not_its_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run_out(start: Start, folder: Path) -> Decode:
        raise MemoryError

    config, names = composed("architecture=dense", "peers=true"), install(monkeypatch, large=run_out)
    with pytest.raises(benchmark.BaselineOutOfMemory):
        benchmark.measure_point(config, match_config(config).spec, 16, ["decode"], names, tmp_path)


def test_engines_that_cannot_decode_say_why_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == "mlx_lm" else name)
    dense, hybrid, uneven = (
        composed(f"architecture={name}", "peers=true", "size.head_dim=16") for name in ("dense", "hybrid", "mamba")
    )
    assert engine_refusals(dense, match_config(dense).spec) == {
        "mlx": "mlx_lm not installed; pip install -c constraints.txt -e '.[engines]'"
    }
    reason = engine_refusals(hybrid, match_config(hybrid).spec)["llama_cpp"]
    assert reason == "blocks mamba, mlp, sliding_attention: llama.cpp has no model with these"
    spec = replace(match_config(uneven).spec, n_groups=2)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    assert engine_refusals(uneven, spec)["mlx"] == "its Mamba-2 norms all groups together"
    spec = replace(spec, norm="layernorm")
    assert "Mamba2ForCausalLM needs norm=rmsnorm" in engine_refusals(uneven, spec)["llama_cpp"]
    several = replace(dense, batch_size=8)
    assert set(engine_refusals(several, match_config(several).spec).values()) == {
        "measured with one text, and batch_size=8"
    }
    monkeypatch.setattr(engines, "is_nvidia_gpu", lambda name: True)
    assert set(engine_refusals(dense, match_config(dense).spec).values()) == {
        "not measured on this GPU; add runtime=cpu"
    }


needs_engines = pytest.mark.skipif(
    any(find_spec(package) is None for package in PACKAGES), reason="needs the extra [engines]"
)


@pytest.mark.slow
@needs_engines
@pytest.mark.filterwarnings("ignore")  # of mlx-lm and what it imports
@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("dense", ["mlx", "llama_cpp"]),
        ("mamba", ["mlx", "llama_cpp"]),
        ("moe", ["mlx", "llama_cpp"]),
        ("hybrid", ["mlx"]),
    ],
)
def test_engines_decode_as_our_models_do(architecture: str, expected: list[str], tmp_path: Path) -> None:
    config = composed(f"architecture={architecture}", "peers=true", "size.head_dim=16")
    spec = match_config(config).spec
    refused = engine_refusals(config, spec)
    names = [name for name in ENGINES if name not in refused]
    assert sorted(names) == sorted(expected)  # tests that replace engines change their order
    found = benchmark.measure_point(config, spec, 48, ["decode"], names, tmp_path)
    assert not found["ended"]
    assert [(point["model"], point.get("first_difference")) for point in found["points"]] == [
        (name, None) for name in ("ours", *names)
    ]


@pytest.mark.slow
@needs_engines
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*ENGINES])
def test_an_engine_with_other_weights_has_another_token(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The comparison of tokens sees weights that an export gets wrong."""
    real = ENGINES[name].start

    def start_with_zeros(start: Start, folder: Path) -> Decode:
        other = model_of(start.model.spec, seed=9)
        return real(start._replace(model=other), folder)

    monkeypatch.setitem(ENGINES, name, ENGINES[name]._replace(start=start_with_zeros))
    config = composed("architecture=dense", "peers=true", "size.head_dim=16")
    action = build_action("decode", name, 4, Case(config, match_config(config).spec, 48, CPU, tmp_path))
    assert action.first_difference is not None and action.tokens == 4


@pytest.mark.slow
@needs_engines
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*ENGINES])
def test_a_prompt_that_takes_too_long_ends_the_engine(name: str, tmp_path: Path) -> None:
    spec = spec_of("dense", max_seq_len=4096)
    prompt = tokens_of(spec, 1, 4000)[0].tolist()
    with pytest.raises(EngineFailure, match="one call takes more than point_seconds"):
        start_engine(name, Start(model_of(spec), prompt, DECODED_TOKENS, 0.01, CPU), tmp_path)(1)
