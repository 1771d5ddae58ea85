"""Every number of every command has an upper limit, and what is no path or name is refused in one line."""

import dataclasses
import typing
from typing import Any

import pytest

from src.cli.compose import compose_config, register
from src.config import schema as schemas
from src.config.limits import LIMITS, PATHS, check_name, check_number, check_path, check_settings
from src.config.schema import TrainConfig, UserError

COMMANDS = {
    name: getattr(schemas, f"{name.title()}Config")
    for name in "train tune prepare generate evaluate report export estimate benchmark doctor".split()
}
TEXTS_THAT_ARE_NO_PATHS = ("name", "prompt", "format")


def leaves(schema: type, key: str = "") -> dict[str, Any]:
    """Return the type of every key of a schema, `*` for a name that the user gives."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(schema):
        hint = typing.get_type_hints(schema)[item.name]
        name = f"{key}{item.name}"
        if typing.get_origin(hint) is dict:
            hint, name = typing.get_args(hint)[1], f"{name}.*"
        if dataclasses.is_dataclass(hint):
            found |= leaves(typing.cast(type, hint), f"{name}.")
        else:
            found[name] = hint
    return found


def is_number(hint: Any) -> bool:
    return hint in (int, float) or any(is_number(part) for part in typing.get_args(hint))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_limits(command: str) -> None:
    numbers = {key for key, hint in leaves(COMMANDS[command]).items() if is_number(hint)}
    assert numbers <= set(LIMITS)


def test_every_limit_and_path_is_that_of_a_setting() -> None:
    keys = {key for schema in COMMANDS.values() for key in leaves(schema)}
    assert set(LIMITS) <= keys and set(PATHS) <= keys
    assert all(limit.least < limit.most <= 1e30 for limit in LIMITS.values())


@pytest.mark.parametrize("key", LIMITS)
def test_what_is_beyond_a_limit_is_refused(key: str) -> None:
    limit = LIMITS[key]
    for value in (limit.most, *([] if limit.above else [limit.least])):
        check_number(key, value, limit)
    for value in (
        limit.least - 1,
        *([limit.most + 1] if limit.most < 2**60 else []),
        limit.most * 1.001,
        10**4000,
        *(map(float, ("nan", "inf", "-inf"))),
        *([limit.least] if limit.above else []),
    ):
        with pytest.raises(UserError) as caught:
            check_number(key, value, limit)
        line = str(caught.value)
        assert line.startswith(f"{key}=") and "\n" not in line and len(line) < 250, line


def test_the_check_reaches_sections_lists_and_dictionaries() -> None:
    register(TrainConfig, "train")
    for overrides, wanted in (
        (["optimizer.betas=[0.9,7]"], "optimizer.betas=7.0: is a share, at most 1"),
        (["stage=code", "+stage.stages.code.mix.language=1.5"], "stage.stages.code.mix.language=1.5: is a share"),
        (["stage=code", "stage.stages.code.max_tokens=0"], "stage.stages.code.max_tokens=0: must be greater than 0"),
        (["data.language.paths=[a,'~nosuchuser/b']"], "data.language.paths=~nosuchuser/b: there is no such user"),
        (["seed=18446744073709551616"], "seed=18446744073709551616: must be at most 9007199254740991"),
        (["runtime.threads=100000"], "runtime.threads=100000: must be at most 512"),
    ):
        with pytest.raises(UserError) as caught:
            check_settings(compose_config(TrainConfig, "train", overrides))
        assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("~nosuchuser/x", "dir=~nosuchuser/x: there is no such user"),
        ("x" * 256, "too long for a path: at most 1000 bytes, 255 in each part"),
        ("ä/" * 500, "too long for a path"),
        ("x/" * 5000, "too long for a path"),
        ("a\0b", "a path cannot have a zero byte"),
    ],
)
def test_what_can_be_no_path(path: str, wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        check_path("dir", path)
    assert wanted in str(caught.value) and len(str(caught.value)) < 250


def test_names_have_a_length() -> None:
    check_name("stage.name=x", "x" * 64)
    for name in ("x" * 65, "名" * 22, "x" * 5000):
        with pytest.raises(UserError, match="must have at most 64 bytes"):
            check_name(f"stage.name={name}", name)
