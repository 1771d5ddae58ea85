"""Printed commands pass unchanged through the shell and Hydra's grammar when they are copied."""

import shlex

import pytest

from src.cli.command_line import format_argument, quote_paths
from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig

PATHS = [
    "/a/b",
    "~/my runs/x",
    "/a,b",
    "it's",
    'say "so"',
    "[x]",
    "$HOME",
    "${HOME}",
    "a=b",
    "null",
    "x;rm -rf",
    "a\\b",
    "ä",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_printed_argument_is_parsed_unchanged(path: str) -> None:
    register_schema(TrainConfig, "train")
    (argument,) = shlex.split(format_argument("init_from", path))
    assert compose_config(TrainConfig, "train", quote_paths([argument])).init_from == path
    (argument,) = shlex.split(format_argument("learning_rates", path, is_list=True))
    assert compose_config(TrainConfig, "train", quote_paths([argument])).learning_rates == [path]
