"""Hydra's configuration loader with a cache for many command lines that differ in few values.

Hydra reads all YAML files again for each job of a sweep (0.3 s). Here each set of group choices (`architecture=moe`) is
composed once, and the other overrides are applied to a copy by Hydra's function. The result equals Hydra's.
"""

import copy
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException


class CachedConfigLoader(ConfigLoaderImpl):
    """A loader that composes each set of group choices once per process."""

    _bases: ClassVar[dict[tuple[str, ...], DictConfig]] = {}
    _bare: ClassVar[dict[tuple[str, ...], DictConfig]] = {}
    """The same without Hydra's node, for `borrow`."""
    _groups: ClassVar[dict[str, bool]] = {}

    @classmethod
    def clear(cls) -> None:
        """Clear the cache, since its sources have changed."""
        cls._bases.clear()
        cls._bare.clear()
        cls._groups.clear()

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose one job like the overridden method, for `compose` and Hydra's launchers."""
        if run_mode is not RunMode.RUN or config_name is None:
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        parsed = [*map(parse, overrides)]
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        choices, values = self._split(parsed)
        config = copy.deepcopy(self._base(config_name, choices))
        _apply(values, config)
        ours = [item for item in parsed if not item.is_hydra_override()]
        with open_dict(config.hydra):
            config.hydra.overrides.task = [item.input_line for item in ours]
            config.hydra.runtime.cwd = os.getcwd()
            names: Any = config.hydra.job.config.override_dirname
            lines = sorted(item.input_line or "" for item in ours if item.key_or_group not in names.exclude_keys)
            config.hydra.job.override_dirname = names.item_sep.join(lines).replace("=", names.kv_sep)
        return config

    @contextmanager
    def borrow(self, config_name: str, overrides: Sequence[str]) -> Iterator[DictConfig]:
        """Compose one job without Hydra's node; the yielded configuration is valid only within the block.

        A full copy would double the time, so only the sections that overrides change are copied.
        """
        parsed = [*map(parse, overrides)]
        self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
        choices, values = self._split(parsed)
        key = (config_name, *choices)
        if key not in self._bare:
            self._bare[key] = copy.deepcopy(self._base(config_name, choices))
            with open_dict(self._bare[key]):
                del self._bare[key]["hydra"]
        config = self._bare[key]
        content: dict[Any, Any] = config.__dict__["_content"]
        changed = {re.split(r"[.\[]", item.key_or_group)[0] for item in values}
        before = {name: copy.deepcopy(node) if name in changed else node for name, node in content.items()}
        try:
            _apply(values, config)
            yield config
        finally:
            content.clear()
            content.update(before)

    def _split(self, parsed: Sequence[Override]) -> tuple[list[str], list[Override]]:
        """Split overrides into choices with Hydra's settings, from which it composes, and values set afterwards."""
        choices = [item for item in parsed if item.is_hydra_override() or self.is_choice(item)]
        return [item.input_line or "" for item in choices], [item for item in parsed if item not in choices]

    def is_choice(self, override: Override) -> bool:
        """Return whether an override chooses a file of a group of conf/."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = self.repository.group_exists(key)
        return self._groups[key] and not isinstance(override.value(), dict)

    def _base(self, config_name: str, choices: list[str]) -> DictConfig:
        key = (config_name, *choices)
        if key not in self._bases:
            self._bases[key] = super().load_configuration(config_name, choices, RunMode.RUN)
        return self._bases[key]


@lru_cache(maxsize=10_000)
def parse(override: str) -> Override:
    """Parse one override. Raises: HydraException for invalid grammar."""
    return OverridesParser.create().parse_overrides([override])[0]


def _apply(values: list[Override], config: DictConfig) -> None:
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException().with_traceback(sys.exc_info()[2]) from error


# Hydra has no setting for the loader, so its module attribute is replaced.
hydra._internal.hydra.ConfigLoaderImpl = CachedConfigLoader  # pyright: ignore[reportPrivateImportUsage]
