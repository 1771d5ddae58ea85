"""metrics.jsonl and its rewind, and the other trackers."""

import json
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig
from src.config.setting import choices_of
from src.tracking import wandb as ours
from src.tracking.jsonl import JsonlLog
from src.tracking.tracker import build_tracker
from src.tracking.wandb import has_api_key

STAGES = ["language", "code"]


def log_info(line: str) -> None:
    """Log nothing."""


@pytest.fixture
def log(tmp_path: Path) -> JsonlLog:
    return JsonlLog(tmp_path / "metrics.jsonl")


def read_steps(log: JsonlLog) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    return [(row["stage"], row["step"]) for row in rows]


def write_rows(log: JsonlLog) -> None:
    for stage in STAGES:
        for step in (0, 5, 10):
            log.log({"stage": stage, "step": step, "train/loss": 1.5})


def test_a_row_is_written_at_once(log: JsonlLog) -> None:
    log.log({"stage": "language", "step": 1, "val/loss": None})
    assert log.path.read_text(encoding="utf-8") == '{"stage": "language", "step": 1, "val/loss": null}\n'


@pytest.mark.parametrize(
    ("stage", "step", "left"),
    [
        ("language", -1, []),  # killed before its first checkpoint: the stage starts again
        ("language", 0, [("language", 0)]),
        ("code", -1, [("language", 0), ("language", 5), ("language", 10)]),
        ("language", 7, [("language", 0), ("language", 5)]),
        ("code", 0, [("language", 0), ("language", 5), ("language", 10), ("code", 0)]),
        ("code", 10, [(stage, step) for stage in STAGES for step in (0, 5, 10)]),
    ],
)
def test_a_rewind_drops_later_rows(log: JsonlLog, stage: str, step: int, left: list[tuple[str, int]]) -> None:
    write_rows(log)
    log.rewind(STAGES, stage, step)
    assert read_steps(log) == left


@pytest.mark.parametrize(
    "rest", ['{"stage": "co', '{"stage": "code"}', "7", "null", '{"stage": "other", "step": 1}', "\x00"]
)
def test_a_rewind_drops_invalid_lines(log: JsonlLog, rest: str) -> None:
    write_rows(log)
    with log.path.open("a", encoding="utf-8") as handle:
        handle.write(rest)
    log.rewind(STAGES, "code", 10)
    assert len(read_steps(log)) == 6
    log.log({"stage": "code", "step": 11})
    assert read_steps(log)[-1] == ("code", 11)


def test_a_rewind_without_a_file_does_nothing(log: JsonlLog) -> None:
    log.rewind(STAGES, "language", 0)
    assert not log.path.exists()


def test_every_tracker_of_the_configuration_has_a_module() -> None:
    for name in choices_of(TrackingConfig, "trackers"):
        parameters = signature(import_module(f"src.tracking.{name}").start).parameters
        assert list(parameters) == ["config", "run_dir", "settings", "log_info", "job_type"]


def test_a_tracker_that_cannot_be_opened_is_logged_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_tracker(TrackingConfig("none"), tmp_path, {}, log_info).trackers == {}
    requested: list[Any] = []

    def start(*arguments: Any) -> None:
        requested.append(arguments)
        raise OSError("disk full\nand more")

    monkeypatch.setattr(ours, "start", start)
    config, lines = TrackingConfig("wandb", ["wandb", "tensorboard"]), list[str]()
    opened = build_tracker(config, tmp_path, {"stage": {"name": "code"}}, lines.append)
    assert requested == [(config, tmp_path, {"stage": {"name": "code"}}, lines.append, "code")]
    assert lines[0] == "wandb: failed (disk full)" and list(opened.trackers) == ["tensorboard"]
    opened.finish(0)


class TestKey:
    @pytest.fixture(autouse=True)
    def _no_account(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.delenv("WANDB_BASE_URL", raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def write(self, path: Path, content: str) -> None:
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)

    def test_there_is_no_key_by_default(self) -> None:
        assert not has_api_key()

    def test_the_key_is_found_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "x")
        assert has_api_key()
        monkeypatch.setenv("WANDB_API_KEY", "")
        assert not has_api_key()

    def test_the_key_is_found_in_netrc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path / "netrc", "machine api.wandb.ai login user password secret\n")
        assert has_api_key()
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/path")
        assert not has_api_key()
        self.write(tmp_path / "netrc", "machine wandb.example.org login user password secret\n")
        assert has_api_key()

    def test_the_key_is_found_in_the_netrc_of_the_home_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NETRC")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert not has_api_key()
        self.write(tmp_path / ".netrc", "machine api.wandb.ai login user password secret\n")
        assert has_api_key()

    @pytest.mark.parametrize("content", ["nonsense here", "machine other.org login user password secret\n", "\xff"])
    def test_a_netrc_without_the_host_has_no_key(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "netrc").write_bytes(content.encode("latin-1"))
        assert not has_api_key()
