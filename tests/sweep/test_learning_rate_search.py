"""The search for learning rates: equal budgets, extended ranges, and rates that jobs use."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from src import tune
from src.cli.command import run_cli
from src.config.schema import TuneSettings, UserError
from src.runs.tuned_learning_rates import write_searches
from src.runtime.atomic_files import read_json
from src.sweep import learning_rate_search, search_results
from src.sweep.search_results import Trial
from tests.integration import tiny


def run_tune(data: Path, root: Path, *more: str) -> int:
    return run_cli(lambda: tune.main(tiny.command_line(data, root, "training.max_steps=2", *more)))


def read_search(root: Path) -> dict[str, Any]:
    (folder,) = (root / "tuning").iterdir()
    (search,) = read_json(folder / "learning_rates.json")["searches"]
    return search


class FreeSearch(learning_rate_search._Search):
    """A search with free trials: the loss is the distance to `best` in factors of 2."""

    def run(self, overrides: list[str]) -> Any:
        CALLS.append(overrides)
        return []


CALLS: list[list[str]] = []
BEST = {"dense": 1e-3, "mamba": 1e-3}


def run_free_search(
    settings: TuneSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, **best: float
) -> learning_rate_search.Trials:
    CALLS.clear()
    monkeypatch.setattr(
        learning_rate_search, "_mean_loss", lambda plans, name, rate, warmup: 1 + abs(math.log2(rate / best[name]))
    )
    search = FreeSearch(folder, [], "seed=1000", list(best), 1e-3, settings)
    return (learning_rate_search._search_grid if settings.method == "grid" else learning_rate_search._search_tpe)(
        search
    )


def learning_rates(trials: list[Trial]) -> list[float]:
    return [trial.learning_rate for trial in trials]


def test_the_grid_is_centered_on_the_rate_of_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run_free_search(TuneSettings(), tmp_path, monkeypatch, dense=1e-3, mamba=2e-3)
    assert learning_rates(trials["dense"]) == learning_rates(trials["mamba"]) == [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]
    assert search_results.find_best(trials["mamba"]).learning_rate == 2e-3 and len(CALLS) == 1


def test_a_best_rate_at_the_edge_extends_the_range_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run_free_search(TuneSettings(), tmp_path, monkeypatch, dense=1e-3, mamba=1.6e-2)
    assert learning_rates(trials["dense"]) == learning_rates(trials["mamba"])
    assert learning_rates(trials["mamba"])[-2:] == [1.6e-2, 3.2e-2], "one beyond the best, and no more"
    assert learning_rates(trials["mamba"])[0] == 2.5e-4, "the other side is left alone"
    assert search_results.find_edge(trials["mamba"]) is None


def test_extensions_are_limited_and_the_edge_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run_free_search(TuneSettings(extensions=2), tmp_path, monkeypatch, dense=1e-9)
    assert len(trials["dense"]) == 7 and search_results.to_record(trials["dense"])["edge"] == "low"
    assert (
        run_free_search(TuneSettings(extensions=0), tmp_path, monkeypatch, dense=1e-9)["dense"][0].learning_rate
        == 2.5e-4
    )


def test_a_diverged_rate_is_never_the_best() -> None:
    record = search_results.to_record([Trial(1e-3, 2.0), Trial(1e-2, math.inf), Trial(1e-1, math.inf)])
    assert record["learning_rate"] == 1e-3 and record["edge"] == "low"
    assert [trial["bits_per_byte"] for trial in record["trials"]] == [2.0, None, None]
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_each_rate_is_tried_with_each_warmup(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short warmup moves the best rate from 1e-3 to 5e-4, where it adds 0.5 to the loss."""
    if method == "tpe":
        pytest.importorskip("optuna")
    settings = TuneSettings(method=method, trials=8, warmup=[5, 50])
    best = {5: 5e-4, 50: 1e-3}
    monkeypatch.setattr(
        learning_rate_search,
        "_mean_loss",
        lambda plans, name, rate, warmup: 1 + abs(math.log2(rate / best[warmup])) + 0.5 * (warmup == 5),
    )
    CALLS.clear()
    search = FreeSearch(tmp_path, [], "seed=1000", ["dense"], 1e-3, settings)
    trials = (learning_rate_search._search_grid if method == "grid" else learning_rate_search._search_tpe)(search)[
        "dense"
    ]
    result = search_results.to_record(trials)
    assert result["warmup_steps"] == 50 and result["learning_rate"] == pytest.approx(1e-3, rel=0.4)
    assert {trial["warmup_steps"] for trial in result["trials"]} == {5, 50}
    if method == "grid":
        assert len(trials) == 2 * 8 and CALLS[0][1] == "schedule.warmup_steps=5,50"
    (name,) = [
        line
        for line in search_results.format_results({"dense": result}, "nano", "bits per byte")
        if "dense nano, warm-up 50" in line
    ]
    assert f"{result['learning_rate']:g}" in name
    assert search_results.to_record([Trial(1e-3, 2.0)])["warmup_steps"] is None


@pytest.mark.parametrize("content", [b"garbage" * 100, b""])
def test_a_damaged_study_is_a_one_line_error(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = tmp_path / "optuna.db"
    file.write_bytes(content)
    if content:
        with pytest.raises(UserError, match=r"optuna\.db: not a study of Optuna .*; remove it"):
            learning_rate_search._open_study("dense", file)
    else:
        assert learning_rate_search._open_study("dense", file).trials == []


def test_tpe_runs_equal_numbers_of_trials_and_continues_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TuneSettings(method="tpe", trials=6)
    trials = run_free_search(settings, tmp_path, monkeypatch, dense=1e-3, mamba=1.5e-3)
    assert len(trials["dense"]) == len(trials["mamba"]) >= 6 and (tmp_path / "optuna.db").exists()
    assert all(search_results.find_best(tried).loss < 1.7 for tried in trials.values())
    assert all(2e-4 < rate < 5e-3 for rate in learning_rates(trials["dense"])[:6])
    again = run_free_search(settings, tmp_path, monkeypatch, dense=1e-3, mamba=1.5e-3)
    assert again == trials and not CALLS, "all of it stands in the database"


def test_tpe_finishes_an_interrupted_trial_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run = TuneSettings(method="tpe", trials=3, extensions=0), FreeSearch.run

    def stop(self: FreeSearch, overrides: list[str]) -> Any:
        run(self, overrides)
        raise learning_rate_search.Unfinished(130, "stopped")

    monkeypatch.setattr(FreeSearch, "run", stop)
    with pytest.raises(learning_rate_search.Unfinished):
        run_free_search(settings, tmp_path, monkeypatch, dense=1e-3)
    (interrupted,) = CALLS
    monkeypatch.setattr(FreeSearch, "run", run)
    trials = run_free_search(settings, tmp_path, monkeypatch, dense=1e-3)
    assert CALLS[0] == interrupted and len(CALLS) == len(trials["dense"]) == 3


@pytest.mark.slow
def test_tpe_extends_its_range_if_the_best_is_at_its_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TuneSettings(method="tpe", trials=8)
    trials = run_free_search(settings, tmp_path, monkeypatch, dense=1e-3, mamba=3.2e-2)
    assert max(learning_rates(trials["mamba"])) > 4e-3 * 1.01 and len(trials["dense"]) == len(trials["mamba"]) > 8


INVALID_SETTINGS = {
    "optimizer.learning_rate=1e-3": "optimizer.learning_rate: is chosen by tune",
    "seed=3": "seed: is chosen by tune",
    "tune.method=random": "tune.method=random: must be one of grid, tpe",
    "tune.trials=2": "tune.trials=2: must be at least 3",
    "tune.factor=1": "tune.factor=1.0: must be greater than 1",
    "tune.seeds=[]": "tune.seeds=[]: give one or more",
    "tune.seeds=[1,1]": "different seeds",
    "tune.warmup=[3,3]": "tune.warmup=[3, 3]: give different numbers of steps",
    "tune.warmup=[-1]": "tune.warmup",
    "training.seq_len=16,32": "tune: finds one rate per architecture and size",
    "tune.trial=3": "tune.trial: no such setting; did you mean tune.trials?",
    "architecture=dens": "architecture=dens",
}


@pytest.mark.parametrize("setting", INVALID_SETTINGS)
def test_invalid_settings_are_errors(
    data: Path, tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tune(data, tmp_path, setting) == 2
    assert INVALID_SETTINGS[setting] in capsys.readouterr().err and not list(tmp_path.iterdir())


def write_search_file(folder: Path, **learning_rates: float) -> Path:
    folder.mkdir()
    rates = {name: {"learning_rate": rate, "edge": None, "trials": []} for name, rate in learning_rates.items()}
    write_searches(folder, [{"size": "nano", "optimizer": "adamw", "text": "grid", "seeds": [1000], "rates": rates}])
    return folder


def write_searches_of_sizes(root: Path, rates: dict[str, dict[int, float]]) -> str:
    """Write a search for each size, which is named after its parameters; return the value of learning_rates."""
    folders: list[str] = []
    for params in sorted({params for of in rates.values() for params in of}):
        found = {
            name: {"learning_rate": of[params], "edge": None, "trials": []}
            for name, of in rates.items()
            if params in of
        }
        contract = {"reference": f"{params} active parameters, 9 in all, 9.0 FLOPs a token, vocabulary of 4096"}
        folder = root / f"search-{params}"
        folder.mkdir()
        search = {"size": f"of{params}", "optimizer": "adamw", "text": f"grid ({params})", "seeds": [params]}
        write_searches(folder, [{**search, "contract": contract, "rates": found}])
        folders.append(str(folder))
    return f"learning_rates=[{','.join(folders)}]"


@pytest.mark.slow
def test_rates_of_other_sizes_give_that_of_a_size_that_was_not_searched(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params = {name: {n: scale * n**-0.5 for n in (100, 400, 1600)} for name, scale in (("dense", 0.1), ("mamba", 0.4))}
    given = write_searches_of_sizes(tmp_path, params)
    contracts = []
    for architecture, scale in (("dense", 0.1), ("mamba", 0.4)):
        assert tiny.run(data, tmp_path, f"architecture={architecture}", given, "training.max_steps=1") == 0
        (run,) = (tmp_path / "runs").glob(f"{architecture}-*")
        contracts.append(read_json(run / "summary.json")["contract"])
        n = int(contracts[-1]["reference"].split()[0])
        rates = [row["train/learning_rate"] for row in tiny.read_rows(run) if "train/learning_rate" in row]
        assert max(rates) == pytest.approx(scale * n**-0.5, rel=0.01)
    assert contracts[0] == contracts[1], "so they are ranked"
    assert contracts[0]["learning_rate_search"].startswith("power law over sizes of100, of400, of1600: grid (100), ")
    assert "size.d_model: " in contracts[0]["search_differences"], "it is marked"
    capfd.readouterr()
    assert tiny.run(data, tmp_path, "-m", "architecture=dense,mamba", given, "seed=0,1,2", "dry_run=true") == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "Learning rates of sizes that were not searched dense nano: rate " in out
    assert "times or divided by 1.00 (standard error), by a power law over sizes of100, of400, of1600" in out
    assert tiny.run(data, tmp_path, given, "seed=400") == 2, "the seed of a search"


def test_one_other_size_gives_no_rate(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_searches_of_sizes(tmp_path, {"dense": {100: 1e-3, 400: 5e-4}, "mamba": {100: 1e-3}})
    assert tiny.run(data, tmp_path, given, "architecture=mamba") == 2
    assert "nothing found for architecture=mamba size=nano" in (line := capsys.readouterr().err)
    assert "or for two or more smaller sizes, which give a power law" in line


def test_jobs_with_tuned_rates_are_comparable(data: Path, tmp_path: Path) -> None:
    folder = write_search_file(tmp_path / "search", dense=1e-3, mamba=4e-3)
    contracts = []
    for architecture, rate in (("dense", 1e-3), ("mamba", 4e-3)):
        assert tiny.run(data, tmp_path, f"architecture={architecture}", f"learning_rates=[{folder}]") == 0
        (run,) = (tmp_path / "runs").glob(f"{architecture}-*")
        contracts.append(read_json(run / "summary.json")["contract"])
        assert max(row.get("train/learning_rate", 0) for row in tiny.read_rows(run)) == pytest.approx(rate)
    assert contracts[0] == contracts[1] and contracts[0]["learning_rate_search"] == "grid"
    assert tiny.run(data, tmp_path, "architecture=dense", "optimizer.learning_rate=1e-3") == 0
    assert len(list((tmp_path / "runs").glob("dense-*"))) == 2, "the same rate, not searched for, is another run"


def test_jobs_with_tuned_warmups_are_comparable(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    learning_rates = {
        name: {"learning_rate": 1e-3, "warmup_steps": steps, "edge": None, "trials": []}
        for name, steps in (("dense", 4), ("mamba", 2))
    }
    search = {"size": "nano", "optimizer": "adamw", "text": "grid", "seeds": [1000], "rates": learning_rates}
    write_searches(folder, [search])
    contracts = []
    for architecture, steps in (("dense", 4), ("mamba", 2)):
        assert tiny.run(data, tmp_path, f"architecture={architecture}", f"learning_rates=[{folder}]") == 0
        (run,) = (tmp_path / "runs").glob(f"{architecture}-*")
        contracts.append(read_json(run / "summary.json")["contract"])
        first = next(row["train/learning_rate"] for row in tiny.read_rows(run) if "train/learning_rate" in row)
        assert first == pytest.approx(1e-3 / steps)
    assert contracts[0] == contracts[1] and contracts[0]["schedule.warmup_steps"] == "searched"
    assert contracts[0]["search_differences"] == "made by an earlier version"
    more = [f"learning_rates=[{folder}]", "schedule.warmup_steps=3"]
    assert tiny.run(data, tmp_path, *more) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.weight_decay", "0.3"), ("training.max_steps", "3"), ("schedule", "cosine")]
)
def test_a_search_for_other_settings_is_used_and_recorded(
    key: str, value: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("tune.trials=3", "tune.factor=1.5", "tune.extensions=0", "training.max_steps=2")
    assert run_tune(data, tmp_path, *arguments) == 0
    (folder,) = (tmp_path / "tuning").iterdir()
    given = [f"learning_rates=[{folder}]", "training.max_steps=2"]
    assert tiny.run(data, tmp_path, *given) == 0 and tiny.run(data, tmp_path, *given, f"{key}={value}") == 0
    result = [read_json(file)["contract"]["search_differences"] for file in tmp_path.glob("runs/*-s0-*/summary.json")]
    assert len(result) == 2 and "" in result
    (differences,) = set(result) - {""}
    assert ("stages" if key == "training.max_steps" else key) in differences and "(search) | " in differences
    capfd.readouterr()
    assert tiny.run(data, tmp_path, "-m", "seed=0,1,2", *given, f"{key}={value}", "dry_run=true") == 0
    assert "searched for other settings" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["optimizer.learning_rate=1e-3"], "leave out optimizer.learning_rate"),
        (["seed=1000"], "seed=1000: the learning rates were chosen by it"),
        (["architecture=moe"], "nothing found for architecture=moe size=nano optimizer=adamw"),
        (["optimizer=muon"], "nothing found for architecture=dense size=nano optimizer=muon"),
        (["init_from=/a/run"], "init_from brings the rate of its run; leave one out"),
        (["learning_rates=[/nowhere]"], "learning_rates=[/nowhere]: no learning_rates.json there"),
    ],
)
def test_invalid_learning_rates_are_errors(
    data: Path, tmp_path: Path, more: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_search_file(tmp_path / "search", dense=1e-3)
    assert tiny.run(data, tmp_path, f"learning_rates=[{folder}]", *more) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_dry_run_counts_the_trials_and_starts_none(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("architecture=dense,moe", "tune.trials=3", "tune.extensions=1", "tune.seeds=[7,8]", "dry_run=true")
    before = sorted(tmp_path.rglob("*"))
    assert run_tune(data, tmp_path, *arguments) == 0
    out = capfd.readouterr().out
    rows = {line.split("|")[1].strip(): line.replace(" ", "").split("|")[2:-1] for line in out.splitlines()[2:4]}
    assert rows["dense nano"][:3] == ["6", "0", "256"] and rows["dense nano"][-2] == "+4", "two rates with two seeds"
    assert rows["dense nano"][-3] == "6.0x", "by FLOPs, since nothing is measured"
    assert "Total: 12 trials" in out and "Size nano: rates for dense, moe alone" in out
    assert sorted(tmp_path.rglob("*")) == before, "nothing is started or written"
    assert run_tune(data, tmp_path, *arguments, "seed=1") == 2


@pytest.mark.slow
def test_a_search_runs_end_to_end(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One rate diverges and the search continues without it; a repeated command starts no trial again."""
    arguments = ("tune.trials=3", "tune.factor=1e22", "tune.extensions=0", "optimizer.grad_clip=0")
    arguments += ("training.max_steps=6", "training.max_nonfinite_steps=1")
    assert run_tune(data, tmp_path, *arguments) == 0
    search = read_search(tmp_path)
    losses = [trial["bits_per_byte"] for trial in search["rates"]["dense"]["trials"]]
    assert losses[0] is not None and losses[1] is not None and losses[2] is None
    assert search["rates"]["dense"]["learning_rate"] == 3e-3
    assert search["text"].startswith("grid, 3 rates, 1 seed, 768 tokens each")
    assert not list((tmp_path / "runs").glob("*/evaluation.json")), "the test split is not read"
    (folder,) = (tmp_path / "tuning").iterdir()
    page = (folder / "report" / "summary.md").read_text()
    assert "trials of learning rates" in page and "## Learning rates" in page
    assert (folder / "report" / "figures" / "learning_rates.png").exists()
    capfd.readouterr()
    assert run_tune(data, tmp_path, *arguments) == 0
    assert "Stage language" not in capfd.readouterr().out and read_search(tmp_path) == search


def test_a_trial_that_fails_for_another_reason_ends_the_search(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_tune(data, tmp_path, "tune.trials=3", "tune.extensions=0", "sweep.timeout=0.01") == 1
    out = capfd.readouterr().out
    assert "Not finished: dense-nano-language-s1000" in out and "took more than sweep.timeout" in out
    assert not list((tmp_path / "tuning").glob("*/learning_rates.json"))
