"""`--help` of every command, `--help KEY`, and the tables of docs/SETTINGS.md."""

import re
from importlib import import_module

import pytest
import yaml

from src.cli.command import run_cli
from src.cli.compose import register_schema
from src.cli.help import command_help
from src.cli.settings_page import COMMANDS, PAGE, current_page
from src.config import schema as schemas
from src.config.schema import CONF, TrainConfig
from src.config.setting import entries_of

SCHEMAS = {command: getattr(schemas, f"{command.title()}Config") for command in COMMANDS}


def print_details(*words: str) -> str:
    register_schema(TrainConfig, "train")
    overrides = [word for word in words if "=" in word]
    return command_help("train", overrides, [word for word in words if "=" not in word])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_setting_in_one_line_of_its_section(command: str) -> None:
    register_schema(SCHEMAS[command], command)
    text = command_help(command, [], [])
    assert max(map(len, text.splitlines())) <= 100
    blocks = text.partition("== Settings")[2].split("\n\n")
    for entry in entries_of(SCHEMAS[command]).values():
        [block] = [one for one in blocks if one.startswith(f"{entry.section}: ")] if entry.section else blocks[-1:]
        line = rf"^  {entry.name} +{re.escape(entry.setting.summary)}$"
        assert re.search(line, block, re.MULTILINE), f"{entry.key}: not in one line"


def test_help_of_a_key_shows_all_its_details() -> None:
    assert (
        print_details("training.max_tokens", "training.budget")
        == """\
training.max_tokens
  Tokens of each stage, in whole steps. max_steps can end it earlier, and
  stage.stages.NAME.max_tokens replaces it for one stage. With budget=flops these are the tokens of
  dense, with budget=time measured steps replace them.
  type     whole number of tokens
  range    1 to 10^15
  default  400000 (${size.max_tokens} in conf/settings.yaml)

training.budget
  Budget that is equal for every architecture in each stage. tokens: max_tokens. flops: the FLOPs of
  dense for max_tokens. time: max_seconds. The schedule ends where the budget ends.
  type     text
  choices  tokens, flops, time
  default  tokens"""
    )


def test_defaults_follow_the_choices_of_the_command_line() -> None:
    assert "default  10000000 (${size.max_tokens} in conf/settings.yaml)" in print_details(
        "training.max_tokens", "size=micro"
    )
    assert "default  muon (in conf/optimizer/muon.yaml)" in print_details("optimizer.name", "optimizer=muon")
    assert "default  7 (on the command line)" in print_details("seed", "seed=7")


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (
            "schedule.*",
            "schedule.name schedule.warmup_steps schedule.searched schedule.min_ratio schedule.update_every "
            "schedule.decay_fraction",
        ),
        ("verdict", "verdict.margin"),
        ("*warmup*", "schedule.warmup_steps"),
        ("stage.stages.code.budget_share", "stage.stages.*.budget_share"),
    ],
)
def test_patterns_sections_and_stages_select_settings(pattern: str, keys: str) -> None:
    assert [line for line in print_details(pattern).splitlines() if line and line[0] != " "] == keys.split()


@pytest.mark.parametrize(
    "command", ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "train")]
)
def test_an_unknown_key_is_one_line_and_status_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module("src.runs.__main__" if command == "runs" else f"src.{command}").main
    assert run_cli(lambda: main(["--help", "no.such_key"])) == 2
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err.startswith("error: no.such_key: no such setting") and shown.err.count("\n") == 1
    )


def test_an_unknown_key_suggests_the_closest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: import_module("src.train").main(["training.max_tokns", "--help"])) == 2
    assert capsys.readouterr().err == (
        "error: training.max_tokns: no such setting; did you mean training.max_tokens?\n"
    )


def test_the_settings_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == current_page(), "write it again: python -m src.cli.settings_page"


def test_only_train_has_defaults_in_yaml() -> None:
    for command in COMMANDS:
        content = yaml.safe_load((CONF / f"{command}.yaml").read_text(encoding="utf-8"))
        assert set(content) <= {"defaults", "hydra"}, command
