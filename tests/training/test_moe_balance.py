"""Balance of experts: logged metrics, the router's bias, and recovery from a collapse."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.config.schema import ScheduleConfig, TrainingConfig
from src.data.loader import TrainLoader
from src.model.blocks.moe.module import MoE
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.runtime.signals import StopRequest
from src.training.checkpoint import load_state, load_weights, read_checkpoint, save_checkpoint
from src.training.compilation import compile_blocks
from src.training.loop import Hooks, Validation, fit
from src.training.moe_metrics import describe_balance
from src.training.stage_budget import StagePlan
from src.training.train_step import TrainState
from tests.contract.small import CPU, random_tokens, small_spec
from tests.integration import tiny
from tests.training.conftest import StateBuilder, poison, step


def build_moe_model(seed: int = 0, **changes: Any) -> LanguageModel:
    """Build two layers of attention and 8 experts with top-k 2."""
    blocks = ("attention", "moe") * 2
    return build_model(replace(small_spec("moe"), **{"blocks": blocks, **changes}), seed)


def moe_blocks(model: LanguageModel) -> list[MoE]:
    return [block for block in model.blocks if isinstance(block, MoE)]


def biases(model: LanguageModel) -> Tensor:
    return torch.stack([block.get_buffer("router_bias") for block in moe_blocks(model)])


def train(state: TrainState, loader: TrainLoader, steps: int, log_every: int = 1) -> list[dict[str, Any]]:
    """Train up to step `steps` of 6 at a constant rate, and return the logged rows of training."""
    rows: list[dict[str, Any]] = []
    training = TrainingConfig(
        seq_len=16, global_batch_size=4, micro_batch_size=2, max_tokens=10**9, log_every=log_every
    )
    plan = StagePlan("language", steps, 1e-3, 100, 100, flops_per_token=7.0)
    schedule = ScheduleConfig(name="wsd", warmup_steps=0, min_ratio=1.0)
    hooks = Hooks(lambda: Validation(1.0, 1.0), rows.append, lambda kind, in_background: None, lambda branch: None)
    fit(state, plan, loader, training, schedule, 1.0, CPU, hooks, StopRequest())
    return [row for row in rows if "train/loss" in row]


def test_metrics_computed_by_hand() -> None:
    """An even layer, one on two experts of four, and one on a single expert."""
    load = torch.tensor([[5, 5, 5, 5], [10, 10, 0, 0], [20, 0, 0, 0]])
    row = describe_balance(load, torch.tensor([1.0, 2.0, 6.0]))
    by_layer = {
        "load_entropy": [1.0, 0.5, 0.0],
        "max_share": [0.25, 0.5, 1.0],
        "dead_experts": [0, 2, 3],
        "max_violation": [0.0, 1.0, 3.0],
        "router_z": [1.0, 2.0, 6.0],
    }
    expected = {"load_entropy": 0.5, "max_share": 1.0, "dead_experts": 5, "max_violation": 3.0, "router_z": 3.0}
    expected = {f"moe/{name}": value for name, value in expected.items()}
    for name, values in by_layer.items():
        expected |= {f"moe/layer_{layer:02}/{name}": value for layer, value in enumerate(values)}
    assert row == pytest.approx(expected)
    assert all(isinstance(value, int) for key, value in row.items() if key.endswith("dead_experts"))


def test_two_collapsed_layers_are_not_balanced() -> None:
    """Each expert has a quarter of all choices, but each layer uses two of four."""
    load = torch.tensor([[8, 8, 0, 0], [0, 0, 8, 8]])
    assert load.sum(dim=0).tolist() == [8, 8, 8, 8]
    row = describe_balance(load)
    assert (row["moe/load_entropy"], row["moe/dead_experts"], row["moe/max_violation"]) == (0.5, 4, 1.0)
    assert "moe/router_z" not in row


def test_one_collapsed_layer_is_visible() -> None:
    row = describe_balance(torch.tensor([[4, 4, 4, 4]] * 9 + [[8, 8, 0, 0]]))
    assert row["moe/load_entropy"] == pytest.approx(0.95)
    assert (row["moe/max_share"], row["moe/dead_experts"], row["moe/max_violation"]) == (0.5, 2, 1.0)
    assert row["moe/layer_09/load_entropy"] == 0.5 and row["moe/layer_08/load_entropy"] == 1.0


def test_non_finite_values_are_none_and_one_expert_is_supported() -> None:
    row = describe_balance(torch.tensor([[3], [3]]), torch.tensor([1.0, torch.nan]))
    assert row["moe/router_z"] is None and row["moe/layer_01/router_z"] is None and row["moe/layer_00/router_z"] == 1.0
    assert row["moe/load_entropy"] == 0.0 and row["moe/max_violation"] == 0.0


def test_rows_describe_the_whole_global_batch(build_state: StateBuilder, loader: TrainLoader) -> None:
    """Compared with logits and choices that a hook recomputes from the routers' inputs in both micro batches."""
    state = build_state(model=build_moe_model())
    logits: list[list[Tensor]] = [[], []]

    def record_logits(layer: int) -> Callable[..., None]:
        def hook(block: MoE, inputs: tuple[Tensor, ...], _: Any) -> None:
            logits[layer].append((inputs[0].double() @ block.router.weight.double().T).detach().flatten(0, 1))

        return hook

    handles = [block.register_forward_hook(record_logits(layer)) for layer, block in enumerate(moe_blocks(state.model))]
    (row,) = train(state, loader, steps=1)
    for handle in handles:
        handle.remove()
    for layer, parts in enumerate(logits):
        assert len(parts) == 2 and sum(map(len, parts)) == 4 * 16
        z = torch.cat(parts)
        load = torch.bincount(z.topk(2).indices.flatten(), minlength=8)
        shares = (load[load > 0] / (4 * 16 * 2)).tolist()
        found = {key.rpartition("/")[2]: value for key, value in row.items() if f"layer_{layer:02}" in key}
        assert found == pytest.approx({
            "load_entropy": -sum(share * math.log(share, 8) for share in shares),
            "max_share": max(shares),
            "dead_experts": int((load == 0).sum()),
            "max_violation": 8 * max(shares) - 1,
            "router_z": z.logsumexp(dim=1).square().mean().item(),
        }, rel=1e-5)  # fmt: skip
    names = {key for key in row if key.startswith("moe/")}
    assert len(names) == 5 * (2 + 1), "layers are counted from 00, blocks without experts are not"


def test_dense_model_logs_no_balance(build_state: StateBuilder, loader: TrainLoader) -> None:
    (row,) = train(build_state("dense"), loader, steps=1)
    assert not [key for key in row if key.startswith("moe/")]


def test_only_logged_steps_are_described(
    build_state: StateBuilder, loader: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Describing a load synchronizes with the device."""
    calls: list[Tensor] = []

    def count(load: Tensor, router_z: Tensor | None) -> dict[str, Any]:
        calls.append(load)
        return describe_balance(load, router_z)

    monkeypatch.setattr("src.training.loop.describe_balance", count)
    train(build_state(model=build_moe_model()), loader, steps=6, log_every=3)
    assert len(calls) == 2


@pytest.mark.parametrize("micro", [8, 2])
def test_bias_changes_once_per_step_by_the_load_of_the_batch(micro: int, build_state: StateBuilder) -> None:
    state = build_state(model=build_moe_model(router_bias_rate=0.125))
    assert not biases(state.model).any()
    expected = torch.zeros(2, 8)
    for number in range(3):
        output = step(state, random_tokens(8, 17, number), micro)
        assert output.expert_load is not None and output.expert_load.sum(dim=1).tolist() == [8 * 16 * 2] * 2
        for layer, load in enumerate(output.expert_load.tolist()):
            for expert, choices in enumerate(load):
                expected[layer, expert] += 0.125 * ((choices < 32) - (choices > 32))
        assert torch.equal(biases(state.model), expected)
    assert expected.any()


def test_skipped_step_does_not_change_the_bias(build_state: StateBuilder) -> None:
    state = build_state(model=build_moe_model(router_bias_rate=0.125))
    step(state, random_tokens(4, 17))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    bias = biases(state.model)
    poison(state, repeat(torch.nan))
    assert step(state, random_tokens(4, 17, 1)).skipped == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    state.forward = state.model
    assert step(state, random_tokens(4, 17, 1)).skipped == 0
    assert not torch.equal(biases(state.model), bias)


def test_bias_changes_only_in_steps_and_has_no_gradient(build_state: StateBuilder) -> None:
    state = build_state(model=build_moe_model(router_bias_rate=0.125))
    step(state, random_tokens(4, 17))
    before = biases(state.model)
    state.model.logits(random_tokens(2, 9))
    state.model.eval().logits(random_tokens(2, 9))
    assert torch.equal(biases(state.model), before)
    assert not [name for name, _ in state.model.named_parameters() if "router_bias" in name]


def test_no_bias_in_the_state_dict_without_a_rate(build_state: StateBuilder) -> None:
    state = build_state(model=build_moe_model())
    step(state, random_tokens(4, 17))
    assert not [name for name in state.model.state_dict() if "router_bias" in name]


def test_recomputation_counts_choices_once(build_state: StateBuilder) -> None:
    found = []
    for recompute in (False, True):
        state = build_state(model=build_moe_model(router_bias_rate=0.125))
        state.model.activation_checkpointing = recompute
        outputs = [step(state, random_tokens(8, 17, number), micro=4) for number in range(3)]
        found.append((outputs[-1], biases(state.model)))
    (plain, plain_bias), (again, again_bias) = found
    assert torch.equal(plain.loss, again.loss) and torch.equal(plain_bias, again_bias)
    assert plain.expert_load is not None and torch.equal(plain.expert_load, again.expert_load)
    assert plain.router_z is not None and torch.equal(plain.router_z, again.router_z)


@pytest.mark.slow
def test_compiled_model_uses_the_changed_bias(build_state: StateBuilder) -> None:
    """A bias compiled as a constant would not change the choices of later steps."""
    found = []
    for compiled in (False, True):
        state = build_state(model=build_moe_model(router_bias_rate=0.125))
        state.forward = compile_blocks(state.model) if compiled else state.model
        loads = [step(state, random_tokens(8, 17)).expert_load for _ in range(3)]
        found.append((loads, biases(state.model)))
    (loads, bias), (compiled_loads, compiled_bias) = found
    assert not torch.equal(loads[0], loads[1])
    assert all(torch.equal(one, other) for one, other in zip(loads, compiled_loads, strict=True))
    assert torch.equal(bias, compiled_bias)


def test_training_resumed_from_a_checkpoint_is_identical(
    build_state: StateBuilder, loader: TrainLoader, tmp_path: Path
) -> None:
    def build(seed: int) -> TrainState:
        return build_state(model=build_moe_model(seed, router_bias_rate=0.01, aux_loss_weight=0.0))

    uninterrupted, first, second = build(0), build(0), build(9)
    expected = train(uninterrupted, loader, steps=6)
    rows = train(first, loader, steps=3)
    save_checkpoint(
        tmp_path / "last", first.model, first.progress, tokenizer_sha256="", run="", state=first.state_dict()
    )
    info = read_checkpoint(tmp_path / "last")
    load_weights(info, second.model)
    assert biases(second.model).any() and torch.equal(biases(second.model), biases(first.model))
    second.restore(load_state(info))
    rows += train(second, loader, steps=6)

    assert tiny.drop_times(rows) == tiny.drop_times(expected)
    ends = uninterrupted.model.state_dict()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in second.model.state_dict().items())


@pytest.fixture
def chain() -> TrainLoader:
    """A stream in which most tokens determine the next one, so that tokens need different experts."""
    generator = np.random.default_rng(0)
    follower, words = generator.permutation(64), [0]
    while len(words) < 4000:
        words.append(int(follower[words[-1]]) if generator.random() < 0.8 else int(generator.integers(64)))
    return TrainLoader(np.array(words, dtype=np.uint16), 16, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aux_loss_weight", "router_bias_rate"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)], ids=["nothing", "loss", "bias"]
)
def test_collapsed_router_recovers_only_with_the_loss_or_the_bias(
    aux_loss_weight: float, router_bias_rate: float, build_state: StateBuilder, chain: TrainLoader
) -> None:
    """Each layer starts with a preference for two experts, in a direction that all hidden states share."""
    model = build_moe_model(
        aux_loss_weight=aux_loss_weight, router_bias_rate=router_bias_rate, router_z_loss_weight=0.0
    )
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0.02
        for block, favored in zip(moe_blocks(model), ([0, 1], [2, 3]), strict=True):
            block.router.weight[favored, 0] += 1.2
    rows = train(build_state(model=model), chain, steps=60)
    layers = [[row[f"moe/layer_0{layer}/load_entropy"] for row in rows] for layer in range(2)]
    assert all(layer[0] < 0.6 for layer in layers) and rows[0]["moe/dead_experts"] >= 4, "collapsed"
    ends = [sum(layer[-10:]) / 10 for layer in layers]
    dead = sum(row["moe/dead_experts"] for row in rows[-10:])
    if aux_loss_weight or router_bias_rate:
        assert min(ends) > 0.9 and dead == 0
    else:
        assert max(ends) < 0.75 and dead >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "balancing",
    [(), ("architecture.aux_loss_weight=0", "architecture.router_bias_rate=0.005")],
    ids=["loss", "bias"],
)
def test_all_experts_of_nano_are_used_after_100_steps(balancing: tuple[str, ...], tmp_path: Path) -> None:
    """On embedded data. During and shortly after the warm-up, an expert may miss a batch."""
    settings = (
        "architecture=moe size=nano stage=language data=embedded data.language.max_bytes=1500000 "
        "data.code.max_bytes=100000 tokenizer.vocab_size=1024 training.seq_len=128 training.max_steps=300 "
        "training.max_tokens=10_000_000 training.eval_every=300 runtime.device=cpu runtime.threads=1 tracking=none "
        "samples.max_new_tokens=1"
    ).split()
    assert tiny.train_main([*settings, *balancing, f"output_root={tmp_path}"]) == 0
    rows = [row for row in tiny.read_rows(tiny.only_run(tmp_path)) if row["step"] > 100 and "train/loss" in row]
    assert len(rows) == 20 and rows[0]["step"] == 110
    assert sum(row["moe/dead_experts"] for row in rows) == 0
    entropies = [row[f"moe/layer_0{layer}/load_entropy"] for row in rows for layer in range(4)]
    assert min(entropies) > 0.85
