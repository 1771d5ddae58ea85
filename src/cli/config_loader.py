"""Hydra's configuration loader with a cache for many command lines that differ in few values.

Hydra reads all YAML files again for each job of a sweep (0.3 s). Here each set of group choices (`architecture=moe`) is
composed once, and the other overrides are applied to a copy by Hydra's function. The sections that they leave alone are
converted to objects once. The result equals Hydra's.
"""

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

REFERENCE = re.compile(r"\$\{(\w+)(?:\.\w+)*\}")
"""An interpolation that refers to another key."""


class _Bare(NamedTuple):
    """A composed set of choices without Hydra's node."""

    config: DictConfig
    sources: dict[str, set[str] | None]
    """The keys that decide each key: itself and those it refers to; None if that is not known."""
    objects: dict[str, Any]
    """What `compose_sections` has converted."""


class CachedConfigLoader(ConfigLoaderImpl):
    """A loader that composes each set of group choices once per process."""

    _bases: ClassVar[dict[tuple[str, ...], DictConfig]] = {}
    _bare: ClassVar[dict[tuple[str, ...], "_Bare"]] = {}
    _known: ClassVar[dict[tuple[str, ...], dict[tuple[str, str | None], DictConfig]]] = {}
    """By the choices that decide more than their section: a composition for each key and the choice for it."""
    _plain: ClassVar[dict[str, set[str]]] = {}
    """The files of each group whose files all write the section of the group alone."""
    _groups: ClassVar[dict[str, bool]] = {}

    @classmethod
    def clear(cls) -> None:
        """Clear the cache, since its sources have changed."""
        for cache in (cls._bases, cls._bare, cls._known, cls._plain, cls._groups):
            cache.clear()

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
        choices, values = self.split(parsed)
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
        (config, *_), values = self._find_bare(config_name, overrides)
        content = _content(config)
        for node in content.values():  # OmegaConf resets what a node holds of its parents' flags only with the parent's
            node._invalidate_flags_cache()
        changed = _changed_sections(values)
        before = {name: copy.deepcopy(node) if name in changed else node for name, node in content.items()}
        try:
            _apply(values, config)
            yield config
        finally:
            content.clear()
            content.update(before)

    def compose_sections(
        self, config_name: str, overrides: Sequence[str], convert: Callable[[DictConfig, str], Any]
    ) -> dict[str, Any]:
        """Compose one job and return what `convert(config, key)` makes of each of its keys.

        What no override changes, directly or by reference, is converted once for each set of choices.
        """
        bare, values = self._find_bare(config_name, overrides)
        changed, found = _changed_sections(values), dict[str, Any]()
        with self.borrow(config_name, overrides) as config:
            for key in map(str, config):
                sources = bare.sources.get(key)
                if sources is None or not changed.isdisjoint(sources):
                    found[key] = convert(config, key)
                    continue
                if key not in bare.objects:
                    bare.objects[key] = convert(config, key)
                found[key] = copy.deepcopy(bare.objects[key])
        return found

    def _find_bare(self, config_name: str, overrides: Sequence[str]) -> tuple[_Bare, list[Override]]:
        """Return the cached composition of the choices of a job, and its other overrides."""
        parsed = [*map(parse, overrides)]
        self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
        choices, values = self.split(parsed)
        key = (config_name, *map(_line, choices))
        if key not in self._bare:
            config = self._compose_bare(config_name, choices)
            self._bare[key] = _Bare(config, {str(name): _find_sources(config, str(name)) for name in config}, {})
        return self._bare[key], values

    def _compose_bare(self, config_name: str, choices: Sequence[Override]) -> DictConfig:
        """Compose choices without Hydra's node.

        The sections are put together where each was composed before, with the same choice for it or without any: ten
        architectures in ten sizes take twenty compositions.
        """
        others, sections, is_unique = self._sort(choices)
        known = self._known.get((config_name, *map(_line, others)), {})
        if not known or not is_unique:
            return _without_hydra(self._base(config_name, choices))
        wanted = {key: known.get((key, sections.get(key))) for key in {key for key, _ in known} | sections.keys()}
        missing = [key for key, base in wanted.items() if base is None]
        if missing and (written := self._written_by(others)) is not None and written.isdisjoint(missing):
            plain = self._known.get((config_name,), {})
            wanted |= {key: plain.get((key, sections.get(key))) for key in missing}
        parts = {key: base for key, base in wanted.items() if base is not None}
        if len(parts) < len(wanted):
            return _without_hydra(self._base(config_name, choices))
        nearest = next(iter(parts.values()))
        config = _without_hydra(nearest)
        for key, base in parts.items():
            if key in config and base is not nearest:
                section = copy.deepcopy(_content(base)[key])
                section._set_parent(config)
                _content(config)[key] = section
        return config

    def _sort(self, choices: Sequence[Override]) -> tuple[list[Override], dict[str, str], bool]:
        """Separate the choices that decide one section alone: their lines by section.

        Returns also whether no section is chosen twice.
        """
        others = [item for item in choices if not self.decides_one_section(item)]
        sections = {item.key_or_group: _line(item) for item in choices if self.decides_one_section(item)}
        return others, sections, len(others) + len(sections) == len(choices)

    def _written_by(self, choices: Sequence[Override]) -> set[str] | None:
        """Name the sections that these choices may write, by their files and lists of defaults; None if not known."""
        written: set[str] = set()
        files: list[str] = []
        for item in choices:
            if item.is_hydra_override():
                written.add("hydra")
            elif item.package is not None or item.is_delete() or not isinstance(value := item.value(), str):
                return None
            else:
                files.append(f"{item.key_or_group}/{value}")
        while files:
            path = files.pop()
            found, group = self.repository.load_config(path), path.partition("/")[0]
            if found is None:
                return None
            is_global = found.header["package"] == "_global_"
            written |= set(map(str, found.config)) if is_global else {group}
            for default in found.defaults_list or []:
                if not isinstance(default, GroupDefault):
                    return None
                name, inner = default.get_name(), (default.group or "").strip("/")
                if not isinstance(name, str):
                    return None
                written.add(inner.partition("/")[0])
                if not inner.startswith("hydra"):
                    files.append(f"{inner}/{name}")
        return written

    def decides_one_section(self, choice: Override) -> bool:
        """Return whether a choice is of a file for the section named after its group, in a group of such files alone.

        The other files of the group matter too: a choice takes away what the file that it replaces wrote elsewhere.
        """
        group, value = choice.key_or_group, choice.value()
        if choice.type is not OverrideType.CHANGE or choice.package or "/" in group or not isinstance(value, str):
            return False
        if group not in self._plain:
            names = self.repository.get_group_options(group)
            self._plain[group] = (
                set(names) if all(self._has_one_section(f"{group}/{name}") for name in names) else set()
            )
        return value in self._plain[group]

    def _has_one_section(self, path: str) -> bool:
        """Return whether a file has no list of defaults and writes the section named after its group."""
        found = self.repository.load_config(path)
        return found is not None and not found.defaults_list and found.header["package"] is None

    def split(self, parsed: Sequence[Override]) -> tuple[list[Override], list[Override]]:
        """Split overrides into choices with Hydra's settings, from which it composes, and values set afterwards."""
        choices = [item for item in parsed if item.is_hydra_override() or self.is_choice(item)]
        return choices, [item for item in parsed if item not in choices]

    def is_choice(self, override: Override) -> bool:
        """Return whether an override chooses a file of a group of conf/."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = self.repository.group_exists(key)
        return self._groups[key] and not isinstance(override.value(), dict)

    def _base(self, config_name: str, choices: Sequence[Override]) -> DictConfig:
        """Compose choices by Hydra, once, and remember the sections that the composition has."""
        key = (config_name, *map(_line, choices))
        if key not in self._bases:
            base = self._bases[key] = super().load_configuration(config_name, list(key[1:]), RunMode.RUN)
            others, sections, is_unique = self._sort(choices)
            if is_unique:
                known = self._known.setdefault((config_name, *map(_line, others)), {})
                for name in map(str, base):
                    known.setdefault((name, sections.get(name)), base)
        return self._bases[key]


@lru_cache(maxsize=10_000)
def parse(override: str) -> Override:
    """Parse one override. Raises: HydraException for invalid grammar."""
    return OverridesParser.create().parse_overrides([override])[0]


def _line(override: Override) -> str:
    return override.input_line or ""


def _without_hydra(base: DictConfig) -> DictConfig:
    """Return a copy without Hydra's node, which is larger than all others and would be copied first."""
    content, whole = _content(base), dict(_content(base))
    del content["hydra"]
    try:
        return copy.deepcopy(base)
    finally:
        content.clear()
        content.update(whole)


def _content(config: DictConfig) -> dict[Any, Any]:
    return config.__dict__["_content"]


def _changed_sections(values: Sequence[Override]) -> set[str]:
    return {re.split(r"[.\[]", item.key_or_group)[0] for item in values}


def _find_sources(config: DictConfig, key: str) -> set[str] | None:
    """Return the keys that decide a key: itself and those it refers to; None if it has other interpolations."""
    found, waiting = set[str](), {key}
    while waiting:
        found.add(name := waiting.pop())
        node = config._get_node(name)
        text = str(OmegaConf.to_container(node, resolve=False) if isinstance(node, Container) else node)
        names = REFERENCE.findall(text)
        if len(names) < text.count("${"):
            return None
        waiting |= {*names} - found
    return found


def _apply(values: list[Override], config: DictConfig) -> None:
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException().with_traceback(sys.exc_info()[2]) from error


# Hydra has no setting for the loader, so its module attribute is replaced.
hydra._internal.hydra.ConfigLoaderImpl = CachedConfigLoader  # pyright: ignore[reportPrivateImportUsage]
