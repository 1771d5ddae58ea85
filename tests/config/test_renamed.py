"""Renamed settings: old records are read, run names stay, and an old key on a command line names the new one."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from src.cli.command_line import parse_arguments
from src.cli.compose import build_run_config, compose_config, register_schema
from src.config import schema as schemas
from src.config.comparability import with_current_names
from src.config.renamed import RENAMED, current_key, earlier_key, rename_keys
from src.config.schema import TrainConfig, UserError
from src.config.setting import entries_of
from src.runs.run_id import IGNORED_SETTINGS, LATER_SETTINGS, run_name, short_hash

KEYS = {
    key
    for command in "train tune prepare generate evaluate report export estimate benchmark doctor".split()
    for key in entries_of(getattr(schemas, f"{command.title()}Config"))
}


def composed(*overrides: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", overrides)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_setting_exists_only_under_its_new_name_in_the_same_section(old: str, new: str) -> None:
    assert new in KEYS and old not in KEYS
    assert old.rpartition(".")[0] == new.rpartition(".")[0]
    assert current_key(old) == new and earlier_key(new) == old and current_key(new) == new


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_on_a_command_line_names_the_new_one(old: str, new: str) -> None:
    for sign in ("", "+"):
        with pytest.raises(UserError) as caught:
            parse_arguments([f"{sign}{old.replace('*', 'code')}=1"])
        assert str(caught.value).endswith(f"{old.replace('*', 'code')}=1: is now called {new.replace('*', 'code')}")


def test_the_configuration_of_an_earlier_run_is_read() -> None:
    config = composed("stage=replay", "architecture=moe", "training.max_nonfinite_steps=7")
    earlier = rename_keys(asdict(config), earlier_key)
    assert earlier["training"]["max_bad_steps"] == 7 and "max_nonfinite_steps" not in earlier["training"]
    assert build_run_config(earlier, Path("config.yaml")) == config


def test_a_file_named_like_a_setting_keeps_its_name() -> None:
    values: dict[str, Any] = {"data": {"code": {"files": {"training.max_bad_steps": "0" * 64}}}}
    assert rename_keys(values, current_key) == values


def test_the_name_of_a_run_is_unchanged() -> None:
    config = composed("stage=replay")
    values = rename_keys(asdict(config), earlier_key)
    earlier = {key: value for key, value in values.items() if key not in IGNORED_SETTINGS}
    del earlier["runtime"]["parallel"]  # is not part of the name
    for key in LATER_SETTINGS:  # nor are these, at their defaults
        section, _, name = key.rpartition(".")
        del (earlier[section] if section else earlier)[name]
    assert run_name(config, "f", None).endswith(f"-{short_hash([earlier, 'f', None])}")
    for other in ("size.n_kv_heads=1", "data_draws=each_seed"):
        assert run_name(composed("stage=replay", other), "f", None) != run_name(config, "f", None)


def test_a_contract_of_an_earlier_version_gets_current_names() -> None:
    assert with_current_names({"training.max_bad_steps": 20}) == {"training.max_nonfinite_steps": 20}
