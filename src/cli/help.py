"""The help of a command, with the value of each setting and the file that gives it; Hydra answers its other flags."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.cli.command_line import explain_hydra_error, given_keys
from src.cli.compose import hydra_session, registered, schema_keys
from src.cli.settings_help import Default, describe, help_text
from src.config.schema import CONF, UserError
from src.config.setting import entries_of


def show_hydra_help(command: str, argv: list[str], overrides: list[str]) -> None:
    """Print --help, and let Hydra answer --cfg and the other flags; it needs the overrides in one piece."""
    if {"--help", "-h"} & {*argv}:
        print(command_help(command, overrides, [item for item in argv if "=" not in item and not item.startswith("-")]))
        return
    import hydra

    # --hydra-help asks for each of a hundred groups, and Hydra would copy all schemas each time: 5 seconds.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]

    def nothing(config: DictConfig) -> None:
        """Never called: Hydra exits after these flags."""

    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"src.{command}", *overrides, *(item for item in argv if item not in overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(nothing)()
    except Exception as error:
        raise UserError(explain_hydra_error(error, overrides, [])) from None


def command_help(command: str, overrides: Sequence[str], patterns: Sequence[str]) -> str:
    """Return the help of a command, or of the settings that patterns name. Raises UserError for an unknown one."""
    schema = registered[command].schema
    with hydra_session(overrides, schema_keys(schema)):
        config = compose(command, overrides=list(overrides), return_hydra_config=True)
    if patterns:
        return describe(schema, patterns, defaults_of(schema, command, overrides))
    groups = [item.name for item in dataclasses.fields(schema) if item.name in config.hydra.runtime.choices]
    return help_text(config.hydra.help.header, groups, schema)


def defaults_of(schema: type, command: str, overrides: Sequence[str] = ()) -> dict[str, Default]:
    """Return the value of each setting with these choices, and the YAML file that gives it."""
    with hydra_session(overrides, schema_keys(schema)) as loader:
        config = compose(command, overrides=list(overrides))
        values = _leaves(OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
        found = {key: Default(values[key]) for key in entries_of(schema) if key in values}
        for item in loader.compute_defaults_list(command, list(overrides), RunMode.RUN).defaults:
            path = CONF / f"{item.config_path}.yaml"
            if not path.is_file():
                continue
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            for key, written in _leaves(
                content, "" if item.package in (None, "", "_global_") else f"{item.package}."
            ).items():
                if key in found:
                    refers = written if isinstance(written, str) and "${" in written else None
                    found[key] = Default(found[key].value, refers, f"conf/{item.config_path}.yaml")
    return found | {key: Default(found[key].value, "on the command line") for key in given_keys(overrides) & {*found}}


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return every part of nested values by its dotted key, mappings included."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[f"{prefix}{name}"] = value
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{name}.")
    return found
