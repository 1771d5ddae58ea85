"""The functions that the benchmark measures: a training step, prefill and decoding, of our models and of others.

The allocator keeps freed memory for all models (`keep_freed_memory`), which other libraries do not enable themselves,
unless `peers_keep_memory` is false.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.config.schema import BenchmarkConfig, ModelSpec, SamplingConfig
from src.data.tokenizer.bpe import EOT_ID
from src.inference.generation import generate
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.profiling.baselines import Baseline, build_baseline
from src.profiling.engines import ENGINES, Start, start_engine
from src.runtime.device import Device, keep_freed_memory
from src.training.train_step import train_step
from src.training.trial_step import build_train_state

REPEATS = 5
MAX_CALLS = REPEATS + 4
"""Calls of an action: warm-up, estimate of its time, the repeats, and memory or, twice, operators."""
VARIANTS = ("compiled", "recomputing")
"""Forms of our model whose training is measured beside it: by `runtime.compile` and `activation_checkpointing`."""
DECODED_TOKENS = 32
"""Tokens of one decoding action."""


class Case(NamedTuple):
    """An architecture at one context length."""

    config: BenchmarkConfig
    spec: ModelSpec
    context_len: int
    device: Device
    scratch: Path
    """Folder for the files of engines."""


class Action(NamedTuple):
    """A measured function of one model."""

    run: Callable[[], object]
    tokens: int
    state_bytes: int | None = None
    """Of one sequence, summed over the tensors of our cache."""
    first_difference: int | None = None
    """Of an engine: the first of `DECODED_TOKENS` greedy tokens that differs from ours, from 0 on."""


def build_action(phase: str, name: str, units: int, case: Case) -> Action:
    """Build a model and return its action for a phase.

    units: sequences of a batch in training, tokens that are decoded of each sequence. Raises: EngineFailure.
    """
    config, spec, context_len, device, _ = case
    rows = units if phase == "train" else config.batch_size
    tokens = torch.randint(spec.vocab_size, (rows, context_len + 1), device=device.kind)
    if name in ("ours", *VARIANTS):
        if phase == "train":
            state = build_train_state(
                spec,
                config.optimizer,
                device,
                is_compiled=name == "compiled",
                activation_checkpointing=name == "recomputing",
                memory=config.training.memory,
            )
            step = partial(train_step, state, tokens, micro_batch_size=rows, grad_clip=1.0, device=device)
            return Action(step, rows * context_len)
        model = build_model(spec, seed=0).to(device.kind).eval()
        if phase == "decode":
            return prepare_decoding(model, tokens[:, :-1], units)
        return Action(partial(_run_prefill, model, tokens[:, :-1]), rows * context_len)
    if name in ENGINES:
        action = _engine_action(name, tokens[0, :-1].tolist(), units, case)
    else:
        action = _baseline_action(phase, build_baseline(name, spec), tokens, units, case)
    if config.peers_keep_memory or device.kind != "cpu":  # the policy applies only to CPUs
        return action
    return action._replace(run=partial(_with_default_allocator, action.run))


def _baseline_action(phase: str, baseline: Baseline, tokens: Tensor, units: int, case: Case) -> Action:
    """Return the action of a baseline for a phase."""
    baseline.model.to(case.device.kind)
    read = tokens[:, :-1]
    if phase == "train":
        optimizer = torch.optim.AdamW(
            baseline.model.train().parameters(), lr=case.config.optimizer.learning_rate, fused=True
        )
        return Action(partial(_train_baseline, baseline, optimizer, tokens, case.device), read.numel())
    baseline.model.eval()
    if phase == "decode":
        return _prepare_baseline_decoding(baseline, read, units)
    return Action(torch.no_grad()(partial(baseline.prefill, read)), read.numel())


def _engine_action(name: str, prompt: list[int], units: int, case: Case) -> Action:
    """Return the decoding action of an engine, after a comparison of its first greedy tokens with ours."""
    model = build_model(case.spec, seed=0).eval()
    start = Start(model, prompt, DECODED_TOKENS * MAX_CALLS, case.config.point_seconds, case.device)
    decode = start_engine(name, start, case.scratch)
    # llama.cpp does not end a text, and writes another token instead, so the comparison ends there.
    ours = list(generate(model, prompt, SamplingConfig(DECODED_TOKENS, 0.0), stop=EOT_ID))
    theirs = decode(DECODED_TOKENS)
    differing = (i for i, (own, other) in enumerate(zip(ours, theirs, strict=False)) if own != other)
    return Action(partial(decode, units), units, first_difference=next(differing, None))


def _with_default_allocator(action: Callable[[], object]) -> None:
    """Run an action with the default settings of glibc's allocator."""
    keep_freed_memory(False)
    try:
        action()
    finally:
        keep_freed_memory()


def _train_baseline(baseline: Baseline, optimizer: torch.optim.Optimizer, tokens: Tensor, device: Device) -> None:
    with device.autocast():
        loss = baseline.loss(tokens)
    loss.backward()
    nn.utils.clip_grad_norm_(baseline.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def _run_prefill(model: LanguageModel, tokens: Tensor) -> None:
    model.head(model(tokens, model.make_cache(*tokens.shape)).hidden[:, -1])


def prepare_decoding(model: LanguageModel, tokens: Tensor, n_tokens: int = DECODED_TOKENS) -> Action:
    """Read the context, tokens (B, T), once, and return an action that decodes `n_tokens` more of each sequence.

    It uses torch's inference mode, as `generate` does; transformers does not, and neither do baselines.
    """
    rows, context_len = tokens.shape
    with torch.inference_mode():
        cache = model.make_cache(rows, context_len + n_tokens * MAX_CALLS)
        model(tokens, cache)

    @torch.inference_mode()
    def decode() -> None:
        token = tokens[:, -1:]
        for _ in range(n_tokens):
            token = model.head(model(token, cache).hidden[:, -1:]).max(dim=-1).indices

    exact = model.make_cache(1, context_len)
    tensors = (value for block in exact.blocks if block for value in vars(block).values())
    return Action(decode, rows * n_tokens, sum(value.nbytes for value in tensors if isinstance(value, Tensor)))


def _prepare_baseline_decoding(baseline: Baseline, tokens: Tensor, n_tokens: int) -> Action:
    with torch.no_grad():
        states = [baseline.prefill(tokens)]

    @torch.no_grad()
    def decode() -> None:
        for _ in range(n_tokens):
            states[0] = baseline.decode(tokens[:, -1:], states[0])

    return Action(decode, len(tokens) * n_tokens)
