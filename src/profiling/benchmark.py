"""Measure training, prefill and decoding by context length, compared with the machine's limits and other libraries.

All measurements that are compared are interleaved in one process: our model, the baselines, a matrix product and a
memory copy. On a slow or busy machine, a step of training has fewer sequences, and one of decoding fewer tokens, so
that each has its turns. Each context length runs in its own process, which may run out of memory without ending the
benchmark.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from src.config.schema import BenchmarkConfig, ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT
from src.model.cost.model_cost import ModelCost, model_cost
from src.profiling.actions import DECODED_TOKENS, MAX_CALLS, REPEATS, VARIANTS, Action, Case, build_action
from src.profiling.baselines import baseline_names
from src.profiling.engines import ENGINES, EngineFailure, engine_refusals
from src.profiling.memory_measurement import peak_growth
from src.runtime.device import DTYPES, Device, is_out_of_memory, open_device
from src.runtime.host import available_bytes
from src.runtime.log import LogFunction
from src.runtime.subprocess_pool import run_in_subprocess

PHASES = ("train", "prefill", "decode")
MEMORY_SHARE = 0.9
"""Share of the available memory that a process may use."""
GEMM_WIDTH = 1024
GEMMS = 8
COPIED_FLOATS = 1 << 24
Point = dict[str, Any]


def measure_series(config: BenchmarkConfig, spec: ModelSpec, log_progress: LogFunction) -> Iterator[dict[str, Any]]:
    """Measure one architecture at each context length, until memory or time runs out; yield the results after each."""
    points: list[Point] = []
    ended = engine_refusals(config, spec) if config.peers else {}
    limits: list[dict[str, float]] = []
    baselines = [*(name for name in ENGINES if name not in ended), *baseline_names(spec)] if config.peers else []
    lengths = sorted(set(config.context_lens))
    while lengths and (phases := [phase for phase in PHASES if phase not in ended]):
        context_len = lengths[0]
        if too_long := [
            phase for phase in phases if 0 < spec.learned_positions < _needed_positions(phase, context_len)
        ]:
            ended |= dict.fromkeys(too_long, f"learned positions end at {spec.learned_positions:,}")
            yield _build_series(config, points, ended, limits)
            continue
        sides = ", ".join(["ours", *baselines])
        log_progress(
            f"{config.architecture.name} {config.size.name}, context {context_len:,}: {', '.join(phases)} of {sides}"
        )
        try:
            with TemporaryDirectory() as scratch:  # of this process, so that it goes even if the other is killed
                found = run_in_subprocess(
                    partial(measure_point, config, spec, context_len, phases, baselines, Path(scratch)),
                    max_bytes=int(MEMORY_SHARE * available_bytes()),
                )
        except (BrokenProcessPool, BaselineOutOfMemory) as error:
            reason = (
                "out of memory"
                if isinstance(error, BaselineOutOfMemory)
                else "its process was killed, likely for its memory,"
            )
            if baselines:  # the last one needs most memory; without it the others may fit
                ended[baselines[-1]] = f"{reason} at {context_len:,}"
                baselines = baselines[:-1]
                continue
            ended |= dict.fromkeys(phases, f"{reason} at {context_len:,}")
        else:
            points += found["points"]
            limits += found["limits"]
            ended |= {name: f"{reason} at {context_len:,}" for name, reason in found["ended"].items()}
            baselines = [name for name in baselines if name not in ended]
            lengths = lengths[1:]
        yield _build_series(config, points, ended, limits)


def _needed_positions(phase: str, context_len: int) -> int:
    """Return how many positions all calls of a phase use."""
    return context_len + (DECODED_TOKENS * MAX_CALLS if phase == "decode" else 0)


def _build_series(
    config: BenchmarkConfig, points: list[Point], ended: dict[str, str], limits: list[dict[str, float]]
) -> dict[str, Any]:
    """Return the results of an architecture so far."""
    machine = {key: statistics.median(limit[key] for limit in limits) for key in limits[0]} if limits else {}
    return {
        "architecture": config.architecture.name,
        "size": config.size.name,
        "points": points,
        "ended": ended,
        "machine": machine,
        "growth": fit_growth(points),
    }


class BaselineOutOfMemory(Exception):
    """Memory ran out while baselines were measured too, so that our model has no result either."""


def measure_point(
    config: BenchmarkConfig, spec: ModelSpec, context_len: int, phases: list[str], baselines: list[str], scratch: Path
) -> dict[str, Any]:
    """Measure phases at a context length in this process: our model, its variants, and each baseline, interleaved.

    Engines only decode. scratch: folder for their files.

    Raises: BaselineOutOfMemory if memory ran out and there are baselines to leave out.
    """
    device = open_device(config.runtime)
    case = Case(config, spec, context_len, device, scratch)
    limits, points, ended = list[dict[str, float]](), list[Point](), dict[str, str]()
    for phase in phases:
        chosen = dict(zip(VARIANTS, (config.runtime.compile, config.runtime.activation_checkpointing), strict=True))
        names = ["ours", *(name for name in VARIANTS if chosen[name] and phase == "train")]
        names += [name for name in baselines if phase == "decode" or name not in ENGINES]
        try:
            actions, times, shrunk_from, failed = _time_phase(phase, names, case)
            if len(times["ours"]) < REPEATS:
                ended[phase] = f"one call takes more than {config.point_seconds / REPEATS:g} s"
                continue
            peaks = {
                name: None if name in ENGINES else _peak_bytes(action.run, device) for name, action in actions.items()
            }
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if baselines:
                raise BaselineOutOfMemory from None
            ended[phase] = "out of memory"
            continue
        ended |= failed
        limits.append(_limits(times))
        for name, action in actions.items():
            seconds = statistics.median(times[name])
            point: Point = {
                "phase": phase,
                "model": name,
                "context_len": context_len,
                "tokens": action.tokens,
                "shrunk_from": shrunk_from,
                "turns": len(times[name]),
                "seconds": seconds,
                "turn_seconds": times[name],
                "tokens_per_second": action.tokens / seconds,
                "peak_bytes": peaks[name],
            }
            if name in ENGINES:
                point["first_difference"] = action.first_difference
            if name == "ours":
                cost = model_cost(spec, context_len)
                flops = cost.train_flops_per_token if phase == "train" else cost.forward_flops_per_token
                point["flops_per_second"] = flops * point["tokens_per_second"]
                point["share_of_gemm"] = point["flops_per_second"] / limits[-1]["gemm_flops_per_second"]
                if action.state_bytes is not None:
                    point |= {"state_bytes": action.state_bytes, "state_bytes_by_formula": cost.state_bytes}
                    steps_per_second = point["tokens_per_second"] / config.batch_size
                    point["bytes_per_second"] = bytes_read(spec, cost, config.batch_size) * steps_per_second
                    point["share_of_memory"] = point["bytes_per_second"] / limits[-1]["memory_bytes_per_second"]
            points.append(point)
    return {"points": points, "limits": limits, "ended": ended}


def _time_phase(
    phase: str, names: list[str], case: Case
) -> tuple[dict[str, Action], dict[str, list[float]], int | None, dict[str, str]]:
    """Time a phase of each model, and the machine's limits in the same turns.

    Returns the actions, the seconds of each and of the limits, the tokens of a step that was too slow, or None, and why
    engines failed.
    """
    config, failed = case.config, dict[str, str]()
    rows = max(1, config.training.micro_batch * config.training.seq_len // case.context_len)
    units, shrunk_from = {"train": rows, "prefill": 1, "decode": DECODED_TOKENS}[phase], None
    max_seconds = config.point_seconds / REPEATS
    while True:
        try:
            actions = {name: build_action(phase, name, units, case) for name in names if name not in failed}
            timed = {name: action.run for name, action in actions.items()} | _limit_actions(case.device)
            times = time_interleaved(timed, case.device, max_seconds)
        except EngineFailure as failure:
            failed[failure.engine] = failure.reason
            continue
        slowest = max(times[name][0] for name in actions)
        if slowest <= max_seconds or units == 1:
            return actions, times, shrunk_from, failed
        shrunk_from = shrunk_from or actions["ours"].tokens
        units = max(1, int(min(0.5, 0.8 * max_seconds / slowest) * units))


def bytes_read(spec: ModelSpec, cost: ModelCost, rows: int) -> float:
    """Return the bytes of weights and state that decoding one token of each of `rows` texts must read.

    Of embeddings that is one row per text, which is not counted; of experts, those that any of the texts uses.
    """
    unused = (cost.total_params - cost.active_params) * (1 - spec.top_k / spec.n_experts) ** (rows - 1)
    weights = cost.total_params - unused - cost.components["embedding"].params
    return weights * BYTES_PER_FLOAT + rows * cost.state_bytes


def time_interleaved(
    actions: dict[str, Callable[[], object]], device: Device, max_seconds: float
) -> dict[str, list[float]]:
    """Return the seconds of each action in `REPEATS` rounds; an action that exceeds `max_seconds` is measured once."""
    times: dict[str, list[float]] = {}
    for name, action in actions.items():
        action()  # compiles, allocates, fills caches
        times[name] = [_time_call(action, device)]
    fast = [name for name, (first,) in times.items() if first <= max_seconds]
    times |= {name: [] for name in fast}
    for _ in range(REPEATS):
        for name in fast:
            times[name].append(_time_call(actions[name], device))
    return times


def _time_call(action: Callable[[], object], device: Device) -> float:
    device.synchronize()
    start = time.perf_counter()
    action()
    device.synchronize()
    return time.perf_counter() - start


def _limit_actions(device: Device) -> dict[str, Callable[[], object]]:
    """Return what bounds the speed: matrix products in the precision of training, and a copy of memory."""
    dtype = DTYPES[device.precision]
    a, b = (torch.randn(GEMM_WIDTH, GEMM_WIDTH, device=device.kind).to(dtype) for _ in range(2))
    source = torch.randn(COPIED_FLOATS, device=device.kind)
    target = torch.empty_like(source)
    return {"gemm": lambda: [a @ b for _ in range(GEMMS)], "copy": lambda: target.copy_(source)}


def _limits(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the FLOPs of matrix products and the bytes copied (read and written), per second."""
    return {
        "gemm_flops_per_second": GEMMS * 2 * GEMM_WIDTH**3 / statistics.median(times["gemm"]),
        "memory_bytes_per_second": 2 * COPIED_FLOATS * BYTES_PER_FLOAT / statistics.median(times["copy"]),
    }


def _peak_bytes(action: Callable[[], object], device: Device) -> int:
    """Return the peak bytes of tensors that an action allocates, without weights and inputs."""
    return peak_growth(action) if device.kind == "cpu" else device.peak_growth(action)


def fit_growth(points: list[Point], min_context: int = 1024) -> dict[str, dict[str, float]]:
    """Fit the cost per token of our model in each phase: cost = c T^exponent, for contexts T of at least `min_context`.

    `ratio` is the cost per token at the longest of these contexts over that at the shortest.
    """
    found: dict[str, dict[str, float]] = {}
    for phase in PHASES:
        own = [point for point in points if point["phase"] == phase and point["model"] == "ours"]
        long = sorted((point["context_len"], 1 / point["tokens_per_second"]) for point in own)
        long = [pair for pair in long if pair[0] >= min_context]
        if len(long) >= 2:
            lengths, costs = np.log(np.array(long)).T
            exponent = float(np.polyfit(lengths, costs, 1)[0])
            found[phase] = {
                "exponent": exponent,
                "ratio": long[-1][1] / long[0][1],
                "from": long[0][0],
                "to": long[-1][0],
            }
    return found


def compare_speeds(series: list[dict[str, Any]], context_len: int) -> dict[str, dict[str, float]]:
    """Return our speed and memory relative to each baseline at a context length.

    Variants of our model are compared with the baselines too, and with our model.
    """
    found: dict[str, dict[str, float]] = {phase: {} for phase in (*PHASES, "train_memory")}
    for one in series:
        at = [point for point in one["points"] if point["context_len"] == context_len]
        for own, baseline in product(at, repeat=2):
            phase, own_name, other_name = own["phase"], own["model"], baseline["model"]
            if baseline["phase"] != phase or own_name not in ("ours", *VARIANTS) or other_name in (own_name, *VARIANTS):
                continue
            key = f"{one['architecture']}{'' if own_name == 'ours' else f' {own_name}'}/{other_name}"
            found[phase][key] = own["tokens_per_second"] / baseline["tokens_per_second"]
            if phase == "train":
                found["train_memory"][key] = own["peak_bytes"] / baseline["peak_bytes"]
    return found
