"""`seeds=auto`: fixed interim analyses and levels, and a sweep that adds seeds until its report is decided."""

from pathlib import Path

import pytest

from src.reporting.statistics.sequential import LOOKS, share_of_look
from src.runtime.atomic_files import read_json
from src.sweep import launch
from tests.integration import tiny

FAST = ("training.max_steps=1", "stage.stages.language.prompts=[]", "evaluation.enabled=false", "seeds=auto")


def sweep(data: Path, root: Path, architectures: str, *more: str) -> int:
    return tiny.train_main(["-m", *tiny.command_line(data, root, f"architecture={architectures}", *FAST, *more)])


def test_the_levels_of_all_looks_add_up_to_that_of_one_report() -> None:
    shares = [share_of_look(look) for look in range(len(LOOKS))]
    assert sum(shares) == pytest.approx(1.0) and all(share > 0 for share in shares)
    assert shares[0] == pytest.approx(0.497, abs=1e-3), "ln(1 + (e - 1) 3/8)"
    assert list(LOOKS) == sorted(set(LOOKS)) and LOOKS[0] >= 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["seeds=auto"], "seeds=auto: is for sweeps; add -m"),
        (["-m", "seeds=auto", "seed=0,1"], "seeds=auto: chooses the seeds; leave out seed"),
        (["-m", "seeds=4"], "seeds=4: must be auto; for seeds of your choice give seed=0,1,2"),
    ],
)
def test_invalid_settings_are_errors(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.train_main(arguments) == 2
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_estimates_the_first_and_the_last_look(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(data, tmp_path, "dense,mamba", "dry_run=true") == 0
    out = capsys.readouterr().out
    assert f"At the first look: {2 * LOOKS[0]} jobs" in out and f"At most: {2 * LOOKS[-1]} jobs" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_seeds_are_added_until_the_report_is_decided(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decided at the second look: the third is not started, and a repeated command finds all jobs done."""
    statuses = [False, True, False, True]
    monkeypatch.setattr(launch, "is_decided", lambda runs, margin: statuses.pop(0))
    assert sweep(data, tmp_path, "dense") == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert len(list((tmp_path / "runs").iterdir())) == LOOKS[1] and read_json(folder / "sweep.json")["look"] == 1
    assert f"Not decided with {LOOKS[0]} seeds; going on to {LOOKS[1]}" in capfd.readouterr().out
    assert sweep(data, tmp_path, "dense") == 0 and not statuses
    assert "Stage language" not in capfd.readouterr().out
    assert [folder] == list((tmp_path / "sweeps").iterdir())
