"""Measure training, prefill and decoding against context length, beside the machine's own limits and other libraries.

All that is compared takes turns in one process: ours, its peers, a product of matrices and a copy of memory. Each
context length has a process of its own, which may run out of memory without ending the benchmark.

The allocator keeps freed memory for all sides alike (`keep_freed_memory`), which peers do not do by themselves, unless
`peers_keep_memory` is false.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.config.schema import BenchmarkConfig, ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT
from src.model.build import build_model
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.language_model import LanguageModel
from src.profiling.baselines import Peer, build_peer, peers_of
from src.profiling.memory_measurement import peak_growth
from src.runtime.device import DTYPES, Device, is_out_of_memory, keep_freed_memory, open_device
from src.runtime.host import available_bytes
from src.runtime.log import LogFunction
from src.runtime.subprocess_pool import run_in_subprocess
from src.training.compilation import compile_blocks
from src.training.loop import TrainState
from src.training.optimizers import build_optimizer
from src.training.train_step import train_step

PHASES = ("train", "prefill", "decode")
TURNS = 5
MOST_CALLS = TURNS + 4
"""Of an action: to warm up, to see how long it takes, the turns, and for its memory or, twice, its operators."""
DECODED = 32
"""Tokens of one turn of decoding."""
MEMORY_FRACTION = 0.9
"""Of the memory there is."""
GEMM_WIDTH = 1024
COPIED_FLOATS = 1 << 24
Point = dict[str, Any]


def measure_series(config: BenchmarkConfig, spec: ModelSpec, say: LogFunction) -> Iterator[dict[str, Any]]:
    """Measure one architecture at each context length, until memory or time is up; yield what is known after each."""
    points: list[Point] = []
    ended: dict[str, str] = {}
    limits: list[dict[str, float]] = []
    peers = peers_of(spec) if config.peers else []
    lengths = sorted(set(config.context_lens))
    while lengths and (phases := [phase for phase in PHASES if phase not in ended]):
        context_len = lengths[0]
        if too_long := [phase for phase in phases if 0 < spec.learned_positions < _positions_of(phase, context_len)]:
            ended |= dict.fromkeys(too_long, f"learned positions end at {spec.learned_positions:,}")
            yield _series(config, points, ended, limits)
            continue
        sides = ", ".join(["ours", *peers])
        say(f"{config.architecture.name} {config.size.name}, context {context_len:,}: {', '.join(phases)} of {sides}")
        try:
            found = run_in_subprocess(
                partial(measure_point, config, spec, context_len, phases, peers),
                max_bytes=int(MEMORY_FRACTION * available_bytes()),
            )
        except (BrokenProcessPool, TooLarge) as error:
            why = "out of memory" if isinstance(error, TooLarge) else "its process was killed, likely for its memory,"
            if peers:  # the last one takes most; without it the others may do
                ended[peers[-1]] = f"{why} at {context_len:,}"
                peers = peers[:-1]
                continue
            ended |= dict.fromkeys(phases, f"{why} at {context_len:,}")
        else:
            points += found["points"]
            limits.append(found["limits"])
            ended |= {phase: f"{why} at {context_len:,}" for phase, why in found["ended"].items()}
            lengths = lengths[1:]
        yield _series(config, points, ended, limits)


def _positions_of(phase: str, context_len: int) -> int:
    """Return how many positions all turns of a phase take."""
    return context_len + (DECODED * MOST_CALLS if phase == "decode" else 0)


def _series(
    config: BenchmarkConfig, points: list[Point], ended: dict[str, str], limits: list[dict[str, float]]
) -> dict[str, Any]:
    """Say what is known of an architecture so far."""
    machine = {key: statistics.median(limit[key] for limit in limits) for key in limits[0]} if limits else {}
    for point in points:
        if "flops_per_second" in point:
            point["share_of_gemm"] = point["flops_per_second"] / machine["gemm_flops_per_second"]
        if "bytes_per_second" in point:
            point["share_of_memory"] = point["bytes_per_second"] / machine["memory_bytes_per_second"]
    return {
        "architecture": config.architecture.name,
        "size": config.size.name,
        "points": points,
        "ended": ended,
        "machine": machine,
        "growth": growth(points),
    }


class TooLarge(Exception):
    """Memory ran out where peers were measured too: not even ours has figures then."""


class Turn(NamedTuple):
    """What one side does in a turn."""

    action: Callable[[], object]
    tokens: int
    state_bytes: int | None = None
    """Of one sequence, counted from the tensors of our cache."""


def measure_point(
    config: BenchmarkConfig, spec: ModelSpec, context_len: int, phases: list[str], peers: list[str]
) -> dict[str, Any]:
    """Measure some phases at a context length in this process: ours, its compiled form, and each peer, in turns.

    Raises: TooLarge where memory ran out and there are peers to leave out.
    """
    device = open_device(config.runtime)
    limits, points, ended = _limits(device), list[Point](), dict[str, str]()
    for phase in phases:
        names = ["ours", *(["compiled"] if config.runtime.compile and phase == "train" else []), *peers]
        try:
            turns = {name: _turn(phase, name, config, spec, context_len, device) for name in names}
            times = take_turns(
                {name: turn.action for name, turn in turns.items()}, device, config.point_seconds / TURNS
            )
            if len(times["ours"]) < TURNS:
                ended[phase] = f"a turn takes more than {config.point_seconds / TURNS:g} s"
                continue
            peaks = {name: _peak_bytes(turn.action, device) for name, turn in turns.items()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if peers:
                raise TooLarge from None
            ended[phase] = "out of memory"
            continue
        for name, turn in turns.items():
            seconds = statistics.median(times[name])
            point: Point = {
                "phase": phase,
                "model": name,
                "context_len": context_len,
                "tokens": turn.tokens,
                "turns": len(times[name]),
                "seconds": seconds,
                "tokens_per_second": turn.tokens / seconds,
                "peak_bytes": peaks[name],
            }
            if name == "ours":
                cost = model_cost(spec, context_len)
                flops = cost.train_flops_per_token if phase == "train" else cost.forward_flops_per_token
                point["flops_per_second"] = flops * point["tokens_per_second"]
                if turn.state_bytes is not None:
                    point |= {"state_bytes": turn.state_bytes, "state_bytes_by_formula": cost.state_bytes}
                    steps_per_second = point["tokens_per_second"] / config.batch_size
                    point["bytes_per_second"] = bytes_read(spec, cost, config.batch_size) * steps_per_second
            points.append(point)
    return {"points": points, "limits": limits, "ended": ended}


def bytes_read(spec: ModelSpec, cost: ModelCost, rows: int) -> float:
    """Return the bytes of weights and state that decoding one token of each of `rows` texts has to read.

    Of embeddings it is a row a text, which is not counted; of experts, those that any of the texts is sent to.
    """
    idle = (cost.total_params - cost.active_params) * (1 - spec.top_k / spec.n_experts) ** (rows - 1)
    weights = cost.total_params - idle - cost.components["embedding"].params
    return weights * BYTES_PER_FLOAT + rows * cost.state_bytes


def take_turns(actions: dict[str, Callable[[], object]], device: Device, longest: float) -> dict[str, list[float]]:
    """Return the seconds of each action in `TURNS` turns; of one that takes longer than `longest`, once alone."""
    taken: dict[str, list[float]] = {}
    for name, action in actions.items():
        action()  # compiles, allocates, fills caches
        taken[name] = [_timed(action, device)]
    quick = [name for name, (first,) in taken.items() if first <= longest]
    taken |= {name: [] for name in quick}
    for _ in range(TURNS):
        for name in quick:
            taken[name].append(_timed(actions[name], device))
    return taken


def _timed(action: Callable[[], object], device: Device) -> float:
    device.synchronize()
    start = time.perf_counter()
    action()
    device.synchronize()
    return time.perf_counter() - start


def _limits(device: Device) -> dict[str, float]:
    """Measure what this machine does at best: products in training's precision, and bytes copied (read and written)."""
    dtype = DTYPES[device.precision]
    a, b = (torch.randn(GEMM_WIDTH, GEMM_WIDTH, device=device.kind).to(dtype) for _ in range(2))
    source = torch.randn(COPIED_FLOATS, device=device.kind)
    target = torch.empty_like(source)
    gemms = 8
    actions = {"gemm": lambda: [a @ b for _ in range(gemms)], "copy": lambda: target.copy_(source)}
    seconds = {name: statistics.median(times) for name, times in take_turns(actions, device, math.inf).items()}
    return {
        "gemm_flops_per_second": gemms * 2 * GEMM_WIDTH**3 / seconds["gemm"],
        "memory_bytes_per_second": 2 * source.nbytes / seconds["copy"],
    }


def _peak_bytes(action: Callable[[], object], device: Device) -> int:
    """Return the bytes of tensors that an action takes at its worst moment, weights and what it is given aside."""
    return peak_growth(action) if device.kind == "cpu" else device.peak_growth(action)


def _turn(phase: str, name: str, config: BenchmarkConfig, spec: ModelSpec, context_len: int, device: Device) -> Turn:
    """Build a side and return what it does in a turn."""
    rows = config.batch_size
    if phase == "train":
        rows = max(1, config.training.micro_batch * config.training.seq_len // context_len)
    tokens = torch.randint(spec.vocab_size, (rows, context_len + 1), device=device.kind)
    if name in ("ours", "compiled"):
        model = build_model(spec, seed=0).to(device.kind)
        if phase == "decode":
            return decoding(model.eval(), tokens[:, :-1])
        if phase == "prefill":
            return Turn(partial(_prefill, model.eval(), tokens[:, :-1]), rows * context_len)
        optimizer = build_optimizer(model, config.optimizer)
        forward = compile_blocks(model) if name == "compiled" else None
        state = TrainState.begin("measured", model.train(), optimizer, device, forward)
        return Turn(partial(_train, state, tokens, device), rows * context_len)
    turn = _turn_of_peer(phase, build_peer(name, spec), config, tokens, device)
    if config.peers_keep_memory or device.kind != "cpu":  # on other devices nobody has our policy
        return turn
    return turn._replace(action=partial(_with_own_allocator, turn.action))


def _turn_of_peer(phase: str, peer: Peer, config: BenchmarkConfig, tokens: Tensor, device: Device) -> Turn:
    """Return what a peer does in a turn."""
    peer.model.to(device.kind)
    read = tokens[:, :-1]
    if phase == "train":
        optimizer = torch.optim.AdamW(peer.model.train().parameters(), lr=config.optimizer.learning_rate, fused=True)
        return Turn(partial(_train_peer, peer, optimizer, tokens, device), read.numel())
    peer.model.eval()
    if phase == "decode":
        return _decoding_peer(peer, read)
    return Turn(torch.no_grad()(partial(peer.prefill, read)), read.numel())


def _with_own_allocator(action: Callable[[], object]) -> None:
    """Act as a program does that says nothing to glibc."""
    keep_freed_memory(False)
    try:
        action()
    finally:
        keep_freed_memory()


def _train(state: TrainState, tokens: Tensor, device: Device) -> None:
    train_step(
        state.model,
        state.forward,
        state.optimizer,
        state.scaler,
        tokens,
        micro_batch_size=len(tokens),
        grad_clip=1.0,
        device=device,
    )


def _train_peer(peer: Peer, optimizer: torch.optim.Optimizer, tokens: Tensor, device: Device) -> None:
    with device.autocast():
        loss = peer.loss(tokens)
    loss.backward()
    nn.utils.clip_grad_norm_(peer.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def _prefill(model: LanguageModel, tokens: Tensor) -> None:
    model.head(model(tokens, model.make_cache(*tokens.shape)).hidden[:, -1])


def decoding(model: LanguageModel, tokens: Tensor, n_tokens: int = DECODED) -> Turn:
    """Read the context, tokens (B, T), once; each turn decodes `n_tokens` of each sequence after it.

    In torch's inference mode, as `generate` does; that of transformers does not, and so do peers.
    """
    rows, context_len = tokens.shape
    with torch.inference_mode():
        cache = model.make_cache(rows, context_len + n_tokens * MOST_CALLS)
        model(tokens, cache)

    @torch.inference_mode()
    def decode() -> None:
        token = tokens[:, -1:]
        for _ in range(n_tokens):
            token = model.head(model(token, cache).hidden[:, -1:]).max(dim=-1).indices

    exact = model.make_cache(1, context_len)
    kept = (value for block in exact.blocks if block for value in vars(block).values())
    return Turn(decode, rows * n_tokens, sum(value.nbytes for value in kept if isinstance(value, Tensor)))


def _decoding_peer(peer: Peer, tokens: Tensor) -> Turn:
    with torch.no_grad():
        states = [peer.prefill(tokens)]

    @torch.no_grad()
    def decode() -> None:
        for _ in range(DECODED):
            states[0] = peer.decode(tokens[:, -1:], states[0])

    return Turn(decode, len(tokens) * DECODED)


def growth(points: list[Point], least: int = 1024) -> dict[str, dict[str, float]]:
    """Fit, of each phase of ours, how cost per token grows: cost = c T^exponent, for contexts T of `least` and more.

    `ratio` is the cost per token at the longest context over that at the shortest of these.
    """
    found: dict[str, dict[str, float]] = {}
    for phase in PHASES:
        own = [point for point in points if point["phase"] == phase and point["model"] == "ours"]
        long = sorted((point["context_len"], 1 / point["tokens_per_second"]) for point in own)
        long = [pair for pair in long if pair[0] >= least]
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


def ratios(series: list[dict[str, Any]], context_len: int) -> dict[str, dict[str, float]]:
    """Compare ours with each peer at a context length: how many times as fast, and what share of its memory we take.

    Ours once compiled is compared with the peers as well, and with ours as it is.
    """
    found: dict[str, dict[str, float]] = {phase: {} for phase in (*PHASES, "train_memory")}
    for one in series:
        at = [point for point in one["points"] if point["context_len"] == context_len]
        for own, peer in product(at, repeat=2):
            phase, mine, theirs = own["phase"], own["model"], peer["model"]
            if peer["phase"] != phase or mine not in ("ours", "compiled") or theirs in ("compiled", mine):
                continue
            key = f"{one['architecture']}{' compiled' if mine == 'compiled' else ''}/{theirs}"
            found[phase][key] = own["tokens_per_second"] / peer["tokens_per_second"]
            if phase == "train":
                found["train_memory"][key] = own["peak_bytes"] / peer["peak_bytes"]
    return found
