"""Every setting has a description, and a value outside its described range is a one-line error."""

import typing
from dataclasses import fields, is_dataclass

import pytest

from src.cli.compose import compose_config, register_schema
from src.config import schema as schemas
from src.config.checks import check_name, check_number, check_path, check_settings, check_value
from src.config.schema import MISSING, ExportConfig, TrainConfig, UserError
from src.config.setting import Range, Setting, choices_of, entries_of, sections_of, values_of
from src.data.sources.registry import SOURCES
from src.data.sources.token_shards import SOURCE as DATATROVE
from src.export import FORMATS
from src.model.size_matching import FREE_PARAMETERS, QUANTITIES

COMMANDS = {
    name: getattr(schemas, f"{name.title()}Config")
    for name in "train tune prepare generate evaluate report runs export estimate benchmark validate doctor".split()
}
ENTRIES = {(command, key): entry for command, schema in COMMANDS.items() for key, entry in entries_of(schema).items()}
RANGES = {(entry.key, entry.setting.range): entry.setting.range for entry in ENTRIES.values() if entry.setting.range}


def is_number(hint: object) -> bool:
    return hint in (int, float) or any(is_number(part) for part in typing.get_args(hint))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_described_and_every_number_has_a_range(command: str) -> None:
    for section, schema in sections_of(COMMANDS[command]):
        hints = typing.get_type_hints(schema)
        for item in fields(schema):
            if is_dataclass(hints[item.name]):
                continue
            description = item.metadata.get("setting")
            assert isinstance(description, Setting), f"{section}.{item.name}: declare it by setting(...)"
            assert description.meaning.endswith(".") and len(description.summary) <= 72, description.meaning
            assert bool(description.range) == is_number(hints[item.name]), f"{section}.{item.name}"


def test_ranges_are_finite_and_forms_are_known() -> None:
    assert all(allowed.least < allowed.most <= 1e30 for allowed in RANGES.values())
    assert {entry.setting.form for entry in ENTRIES.values()} == {"", "path", "name"}


def test_choices_equal_those_of_the_code() -> None:
    assert choices_of(TrainConfig, "match") == (*QUANTITIES, "none")
    assert choices_of(TrainConfig, "architecture.free_parameters") == FREE_PARAMETERS
    for corpus in ("language", "code"):
        assert choices_of(TrainConfig, f"data.{corpus}.source") == (*SOURCES, DATATROVE)
    assert set(choices_of(ExportConfig, "format")) == set(FORMATS)


def test_defaults_are_within_their_ranges_and_choices() -> None:
    for schema in COMMANDS.values():
        for key, setting, value in values_of(schema()):
            if value != MISSING:
                check_value(key, setting, value)


@pytest.mark.parametrize(("key", "limit"), RANGES, ids=[key for key, _ in RANGES])
def test_values_beyond_a_limit_are_errors(key: str, limit: Range) -> None:
    for value in ([] if limit.below else [limit.most]) + ([] if limit.above else [limit.least]):
        check_number(key, value, limit)
    for value in (
        limit.least - 1,
        *([limit.most + 1] if limit.most < 2**60 else []),
        limit.most * 1.001,
        10**4000,
        *(map(float, ("nan", "inf", "-inf"))),
        *([limit.least] if limit.above else []),
        *([limit.most] if limit.below else []),
    ):
        with pytest.raises(UserError) as caught:
            check_number(key, value, limit)
        line = str(caught.value)
        assert line.startswith(f"{key}=") and "\n" not in line and len(line) < 250, line


def test_the_check_reaches_sections_lists_and_dictionaries() -> None:
    register_schema(TrainConfig, "train")
    for overrides, expected in (
        (["optimizer.betas=[0.9,7]"], "optimizer.betas=7.0: is a share, at most 1"),
        (
            ["stage=code", "+stage.stages.code.mixture.language=1.5"],
            "stage.stages.code.mixture.language=1.5: is a share",
        ),
        (["stage=code", "stage.stages.code.max_tokens=0"], "stage.stages.code.max_tokens=0: must be greater than 0"),
        (["data.language.paths=[a,'~nosuchuser/b']"], "data.language.paths=~nosuchuser/b: there is no such user"),
        (["seed=18446744073709551616"], "seed=18446744073709551616: must be at most 9007199254740991"),
        (["runtime.threads=100000"], "runtime.threads=100000: must be at most 512"),
    ):
        with pytest.raises(UserError) as caught:
            check_settings(compose_config(TrainConfig, "train", overrides))
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~nosuchuser/x", "dir=~nosuchuser/x: there is no such user"),
        ("x" * 256, "too long for a path: at most 1000 bytes, 255 in each part"),
        ("ä/" * 500, "too long for a path"),
        ("x/" * 5000, "too long for a path"),
        ("a\0b", "a path cannot have a zero byte"),
    ],
)
def test_invalid_paths_are_errors(path: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_path("dir", path)
    assert expected in str(caught.value) and len(str(caught.value)) < 250


def test_too_long_names_are_errors() -> None:
    check_name("stage.name=x", "x" * 64)
    for name in ("x" * 65, "名" * 22, "x" * 5000):
        with pytest.raises(UserError, match="must have at most 64 bytes"):
            check_name(f"stage.name={name}", name)
