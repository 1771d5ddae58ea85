"""`data=PATH`: the user's own text, written out as the settings that read it; `data=TASK`: its stage."""

import difflib
import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.command_line import given_keys, quote_value
from src.cli.config_loader import parse
from src.cli.settings_help import files_of
from src.config.checks import shorten
from src.config.schema import CONF, TASK, UserError
from src.data.dataset import MANIFEST, load_data_dir
from src.data.sources.own_text import corpora_of
from src.runtime.atomic_files import read_yaml

LOOKS_LIKE_PATH = re.compile(r"[/\\.*?~]|\s")


def expand_data_path(argv: Sequence[str], has_stages: bool = True) -> list[str]:
    """Replace `data=PATH` by data=local with the paths of the corpora that are there, and their stage if none is given.

    has_stages: whether the command has the setting `stage`. A name in conf/data remains; that of a task is followed by
    its stage, if none is given.
    Raises: UserError for a path that does not exist or has no text, and for an unknown name.
    """
    names = files_of(CONF / "data")
    expanded: list[str] = []
    for argument in argv:
        key, sign, value = argument.partition("=")
        choices = value.strip("'\"").split(",")
        if key != "data" or not sign or all(choice in names for choice in choices):
            expanded.append(argument)
            if key == "data" and has_stages and "stage" not in given_keys(argv) and all(map(_is_task, choices)):
                expanded.append(f"stage={TASK}")
            continue
        expanded += _own_text(value, names, argv, has_stages)
    return expanded


def _is_task(choice: str) -> bool:
    """Return whether a choice of conf/data is a synthetic task, which has a stage of its own."""
    path = CONF / "data" / f"{choice}.yaml"
    return path.is_file() and TASK in read_yaml(path)


def _own_text(value: str, names: list[str], argv: Sequence[str], has_stages: bool) -> list[str]:
    path = value[1:-1] if value[:1] in ("'", '"') and value.endswith(value[0]) else value
    place = os.path.expanduser(path)
    if not os.path.exists(place) and not (glob.has_magic(place) and glob.glob(place, recursive=True)):
        raise UserError(f"data={shorten(value)}: {_explain_missing(path, names)}")
    given = given_keys(argv)
    if (Path(place) / MANIFEST).is_file():
        corpora = load_data_dir(path).corpora
        overrides = [f"data.dir={quote_value(path)}"]
    else:
        corpora, overrides = _local_text(path, value, argv)
    if has_stages and "stage" not in given:
        overrides.append(f"stage={'full' if len(corpora) == 2 else corpora[0]}")
    return overrides


def _local_text(path: str, value: str, argv: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Return the corpora of files that are not prepared, and the settings that read them."""
    given = given_keys(argv)
    if clash := sorted(given & {"data.dir", "data.language.paths", "data.code.paths"}):
        raise UserError(f"{clash[0]}: data={shorten(value)} names the text already; leave one out")
    local = read_yaml(CONF / "data" / "local.yaml")
    extensions = {corpus: _extensions(corpus, argv) or local[corpus]["extensions"] for corpus in ("language", "code")}
    corpora = corpora_of(path, **{f"{corpus}_extensions": values for corpus, values in extensions.items()})
    overrides = ["data=local", *(f"data.{corpus}.paths=[{quote_value(path)}]" for corpus in corpora)]
    if "data.name" not in given:
        overrides.append(f"data.name={_name_of(os.path.expanduser(path))}")
    print(f"data={path}: {' and '.join(corpora)}", file=sys.stderr)
    return corpora, overrides


def _extensions(corpus: str, argv: Sequence[str]) -> list[str]:
    """Return the extensions that the command line gives for a corpus."""
    for argument in argv:
        if argument.startswith(f"data.{corpus}.extensions="):
            value = parse(argument).value()
            return [str(item) for item in value] if isinstance(value, list) else []
    return []


def _explain_missing(path: str, names: list[str]) -> str:
    known = f"a name is one of {', '.join(names)}"
    if "," in path:
        return f"is a single file, folder or glob; give a folder or a glob for several ({known})"
    if LOOKS_LIKE_PATH.search(path):
        return f"no such file or folder, and no file matches; correct the path ({known})"
    near = difflib.get_close_matches(path, names, 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    return f"no such choice, file or folder{guess} ({known})"


def _name_of(path: str) -> str:
    """Return a name for the data of a path, from the last part without glob characters."""
    parts = [part for part in Path(os.path.abspath(path)).parts if not glob.has_magic(part)]
    stem = Path(parts[-1] if parts else "").name.split(".")[0]
    return re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_")[:40] or "own_text"
