"""A branch is bit-identical to a run of its budget and costs only its decay."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from src.cli.compose import register_schema
from src.config.schema import TrainConfig
from src.runs.contract import training_contract
from src.runs.planning import plan_runs
from src.runs.run import Run
from src.runtime.atomic_files import read_json
from src.training.checkpoint import find_checkpoint, read_checkpoint
from src.training.stage_budget import plan_stage, stage_schedule, stage_tokens
from tests.integration import tiny
from tests.integration.torture import differences

STEPS, QUARTER, WARMUP = 48, 12, 3
PART = "language_quarter"
BRANCHES = ("stage=language_budgets", "stage.stages.language_sixteenth.budget_share=0.125")
COMMON = ("training.checkpoint_every=3", "training.eval_every=4", "schedule=wsd", "schedule.decay_fraction=0.5")
SETTINGS = (
    *(*COMMON, "training.dropout=0.1", "evaluation.enabled=false"),
    *(f"training.max_steps={STEPS}", f"schedule.warmup_steps={WARMUP}"),
)


def train_run(data: Path, root: Path, *more: str) -> Path:
    assert tiny.run(data, root, *SETTINGS, *more) == 0
    return tiny.only_run(root)


def fail_at(data: Path, root: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with branches until the step after `steps` others raises an error."""
    with monkeypatch.context() as patch:
        tiny.break_step(patch, steps)
        with pytest.raises(RuntimeError, match="on fire"):
            tiny.run(data, root, *SETTINGS, *BRANCHES)


def read_state(run: Path, stage: str) -> dict[str, Any]:
    """Read the optimizer state and the load shares of a stage's last checkpoint."""
    state = torch.load(run / "checkpoints" / stage / "last" / "state.pt", weights_only=True)
    return {key: state[key] for key in ("optimizer", "load_shares")}


def hash_weights(run: Path, stage: str) -> str:
    return read_checkpoint(run / "checkpoints" / stage / "last").sha256["model.safetensors"]


def is_equal(one: Any, other: Any) -> bool:
    """Compare nested values; tensors elementwise."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(is_equal, one, other)) if isinstance(one, list) else one == other


@pytest.fixture(scope="module", params=["dense", pytest.param("moe", marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with a branch, the same run without it, and a run with the branch's budget."""
    root, architecture = tmp_path_factory.mktemp("branches"), [f"architecture={request.param}"]
    if request.param == "moe":
        architecture.append("architecture.router_bias_rate=0.01")
    return {
        "branched": train_run(data, root / "branched", *BRANCHES, *architecture),
        "plain": train_run(data, root / "plain", *architecture),
        "short": train_run(data, root / "short", f"training.max_steps={QUARTER}", *architecture),
    }


def test_a_branch_is_bit_identical_to_a_run_of_its_budget(runs: dict[str, Path]) -> None:
    assert hash_weights(runs["branched"], PART) == hash_weights(runs["short"], "language")
    assert is_equal(read_state(runs["branched"], PART), read_state(runs["short"], "language"))
    part, short = (read_json(runs[name] / "summary.json")["stages"] for name in ("branched", "short"))
    for key in ("steps", "tokens", "train_flops", "val_loss", "val_bits_per_byte", "skipped_steps"):
        assert part[PART][key] == short["language"][key], key


def test_branches_do_not_change_their_origin(runs: dict[str, Path]) -> None:
    assert hash_weights(runs["branched"], "language") == hash_weights(runs["plain"], "language")
    branched, plain = tiny.read_untimed_rows(runs["branched"]), tiny.read_untimed_rows(runs["plain"])
    assert branched[: len(plain)] == plain


def test_rows_of_a_branch_start_at_its_first_step(runs: dict[str, Path]) -> None:
    rows = [row for row in tiny.read_rows(runs["branched"]) if row["stage"] == PART]
    first = rows[0]["step"]
    assert WARMUP < first < QUARTER and "val/loss" in rows[0]
    trained_at = [row["step"] for row in rows if "train/loss" in row]
    assert trained_at == list(range(first + 1, QUARTER + 1))
    assert all(row["tokens"] == row["step"] * 4 * 32 for row in rows)
    at = {row["step"]: row["train/loss"] for row in tiny.read_rows(runs["short"]) if "train/loss" in row}
    assert {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}.items() <= at.items()


def test_totals_count_each_token_once_and_the_result_is_of_the_full_budget(runs: dict[str, Path]) -> None:
    summary, plain = (read_json(runs[name] / "summary.json") for name in ("branched", "plain"))
    part, language, final = summary["stages"][PART], summary["stages"]["language"], summary["final"]
    other = summary["stages"]["language_sixteenth"]
    own = part["tokens"] - part["shared"]["tokens"]
    rows = [row for row in tiny.read_rows(runs["branched"]) if row["stage"] == PART]
    assert own == (QUARTER - rows[0]["step"]) * 4 * 32 and part["branch_of"] == "language"
    assert final["tokens"] == language["tokens"] + own + other["tokens"] - other["shared"]["tokens"]
    assert final["train_flops"] == final["tokens"] * summary["accounting"]["train_flops_per_token"]
    assert (final["val_loss"], final["val_bits_per_byte"]) == (language["val_loss"], language["val_bits_per_byte"])
    assert final["val_loss"] == plain["final"]["val_loss"]
    assert 0 < part["shared"]["wall_time_s"] < part["wall_time_s"]
    wall = language["wall_time_s"] + sum(each["wall_time_s"] - each["shared"]["wall_time_s"] for each in (part, other))
    assert final["wall_time_s"] == pytest.approx(wall)
    assert 0 < final["tokens"] / final["tokens_per_second"] < final["wall_time_s"]


def test_the_final_weights_are_not_those_of_a_branch(runs: dict[str, Path]) -> None:
    assert find_checkpoint(runs["branched"], "last").progress.stage == "language"


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(8, 44), (STEPS,)])
def test_a_run_that_fails_near_a_branch_resumes_bit_identically(
    stops: Sequence[int], runs: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures before a saved branch's step is repeated, and in the branch before and after its checkpoint."""
    if runs["branched"].name.startswith("moe"):
        pytest.skip("the same code: once is enough")
    for steps in stops:
        fail_at(data, tmp_path, steps, monkeypatch)
    assert tiny.run(data, tmp_path, *SETTINGS, *BRANCHES) == 0
    assert differences(runs["branched"], tiny.only_run(tmp_path)) == []


@pytest.mark.slow
def test_a_branch_without_its_first_checkpoint_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at(data, tmp_path, STEPS, monkeypatch)
    last = tiny.only_run(tmp_path) / "checkpoints" / PART / "last"
    last.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert tiny.run(data, tmp_path, *SETTINGS, *BRANCHES) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: stage.stages.language_quarter.branch_of=language: ") and error.count("\n") == 1
    assert error.endswith("train again with rerun=true\n")


def plan_config(*overrides: str) -> TrainConfig:
    from src.cli.compose import compose_config

    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", ["schedule=wsd", *overrides])


def test_a_branch_keeps_the_warmup_and_begins_where_the_learning_rate_falls() -> None:
    from src.training.schedule import learning_rate_factor, warmup_steps

    config = plan_config("stage=language_budgets", "training.max_steps=1600", "training.max_tokens=1000000000")
    stages = config.stage.stages
    quarter = plan_stage(config, "language_quarter", stages["language_quarter"], 0)
    schedule = stage_schedule(config, stages["language_quarter"])
    assert quarter.steps == 400 and schedule.warmup_steps == warmup_steps(100, config.schedule), "of the sixteenth"
    assert stage_schedule(config, stages["language"]) == schedule
    factors = [learning_rate_factor(step, 400, schedule) for step in range(400)]
    full_budget = [learning_rate_factor(step, 1600, schedule) for step in range(400)]
    first = quarter.first_step
    assert factors[:first] == full_budget[:first] and factors[first] < 1 == full_budget[first]
    assert plan_stage(config, "language", stages["language"], 0).branches["language_quarter"] == first
    per_step = 8 * 256
    assert stage_tokens(config)["language_quarter"] == (400 - first) * per_step


def test_the_contract_records_the_budget_of_each_branch() -> None:
    rules = training_contract(plan_config("stage=language_budgets", "training.max_tokens=3276800"), None, None)
    assert "language_quarter: language 400 steps and 819200 tokens, of dense" in str(rules["stages"])
    assert rules["stage.stages.language_quarter.branch_of"] == "language"
    assert rules["stage.stages.language_quarter.budget_share"] == 0.25
    warmups = [part.split(": ")[1].split(" of")[0] for part in str(rules["warmup"]).split(", ")]
    assert len(warmups) == 3 and len(set(warmups)) == 1


def test_steps_of_trackers_increase_over_branches() -> None:
    config = plan_config("stage=language_budgets")
    run = Run(config, *[None] * 13)  # pyright: ignore[reportArgumentType]
    run.summary = {"stages": {}}  # pyright: ignore[reportAttributeAccessIssue]
    counted: list[int] = []
    for name, stage in config.stage.stages.items():
        plan = plan_stage(config, name, stage, 0)
        counted += [run.global_step(name, step) for step in range(plan.first_step, plan.steps + 1)]
    assert all(later == earlier + 1 for earlier, later in itertools.pairwise(counted)) and counted[0] == 0


def test_dry_run_and_estimate_count_only_the_decay_of_a_branch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from src.config.schema import EstimateConfig
    from src.estimate import main as estimate

    settings = ["training.max_tokens=3276800", "schedule=wsd"]
    tokens = sum(stage_tokens(plan_config("stage=language_budgets", *settings)).values())
    assert 3276800 < tokens < 1.15 * 3276800
    register_schema(EstimateConfig, "estimate")
    assert estimate(["stage=language_budgets", "format=json", *settings]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == tokens
    assert tiny.train_main(["stage=language_budgets", "dry_run=true", f"output_root={tmp_path}", *settings]) == 0
    assert f" {tokens / 1e6:.2f}M |" in capsys.readouterr().out


def test_equal_time_counts_a_branch_by_its_share() -> None:
    from src.training.stage_budget import trained_budgets

    config = plan_config("stage=language_budgets", "training.budget=time", "training.max_seconds=100")
    assert 1 < trained_budgets(config) < 1.2
    assert "language_quarter: language 25 s" in str(training_contract(config, None, None)["stages"])


@pytest.mark.slow
def test_branches_of_a_second_stage_run_and_are_evaluated_without_probes(data: Path, tmp_path: Path) -> None:
    register_schema(TrainConfig, "train")
    more = [*COMMON, f"training.max_steps={STEPS}", "schedule.warmup_steps=1", "stage=full_budgets"]
    line = tiny.command_line(data, tmp_path, *more, "stage.stages.code_sixteenth.budget_share=0.125")
    assert plan_runs([line])[0].config.stage.name == "full_budgets"
    assert tiny.train_main(line) == 0
    stages_evaluated = read_json(tiny.only_run(tmp_path) / "evaluation.json")["stages"]
    assert len(stages_evaluated) == 6
    assert "probes" in stages_evaluated["code"] and "scripts" in stages_evaluated["code"]
    assert "probes" not in stages_evaluated["code_quarter"] and "scripts" not in stages_evaluated["code_quarter"]
    assert stages_evaluated["code_quarter"]["test"]["code"]["loss"] > 0
