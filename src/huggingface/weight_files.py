"""Read the weights of a folder of transformers: one safetensors file, or several that an index names (shards).

The names and shapes of the tensors are compared with those that config.json implies before memory is allocated. Then
one tensor is read at a time.
"""

import json
import os
from collections.abc import Set
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from src.config.schema import ModelSpec, UserError
from src.huggingface.mapping import HEAD, Mapping, Settings
from src.huggingface.tensor_file import TensorFile, state_shapes
from src.huggingface.weight_mapping import Shape, TensorMapping
from src.runtime.atomic_files import read_bytes
from src.runtime.errors import first_line
from src.runtime.records import is_plain_name

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")
"""Types that convert to fp32 without loss."""


class WeightFiles(NamedTuple):
    """The files of a model's weights."""

    path: Path
    """The one file, or the index: what errors name."""
    paths: list[Path]
    shapes: dict[str, Shape]
    """Of all tensors, by their names."""


def find_weights(folder: Path) -> WeightFiles:
    """Find the files, and read the names and shapes of their tensors. Raises UserError."""
    path, index = folder / WEIGHTS, folder / INDEX
    if os.path.lexists(path):
        return WeightFiles(path, [path], _read_shapes(path))
    if not os.path.lexists(index):
        raise UserError(f"{path}: no such file; weights in pickled files (.bin, .pt) are not read")
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{index}: weight_map: must name the file of each tensor")
    for name in listed.values():
        if not (isinstance(name, str) and is_plain_name(name) and name.endswith(".safetensors")):
            raise UserError(f"{index}: weight_map: {name!r:.80} is not the name of a safetensors file beside it")
    shapes: dict[str, Shape] = {}
    paths = [folder / name for name in sorted({*listed.values()})]
    if missing := [file for file in paths if not os.path.lexists(file)]:
        raise UserError(f"{missing[0]}: no such file, but {INDEX} names it; download it again")
    for file in paths:
        found = _read_shapes(file)
        expected = {name for name, held_by in listed.items() if held_by == file.name}
        if different := sorted(found.keys() ^ expected):
            raise UserError(f"{file}: {INDEX} lists other tensors for it, such as {different[0]!r:.80}")
        shapes |= found
    return WeightFiles(index, paths, shapes)


def read_object(path: Path) -> Settings:
    """Read a JSON object. Raises UserError."""
    content = read_bytes(path, allow_links=True)
    try:
        value = json.loads(content.decode("utf-8"))  # not msgspec: transformers writes Infinity
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a JSON object")
    return value


def _read_shapes(path: Path) -> dict[str, Shape]:
    """Read the names and shapes of the tensors of one file."""
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; replace it by the file itself")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name, part in slices.items():
                if part.get_dtype() not in DTYPES:
                    raise UserError(
                        f"{path}: {name!r:.80} is of type {part.get_dtype()}; must be one of {', '.join(DTYPES)}"
                    )
            return {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({first_line(error)})") from None


def read_weights(files: WeightFiles, spec: ModelSpec, mapping: Mapping) -> dict[str, Tensor]:
    """Read the weights as a `state_dict` in fp32, after checking names and shapes.

    A tied head may be stored if it equals the embedding. Raises UserError.
    """
    path, shapes, tensors = files.path, files.shapes, mapping.map_tensors(spec)
    embedding = f"{mapping.outer.embedding}.weight"
    copied = spec.tie_embeddings and HEAD in shapes
    if copied:
        shapes = {name: shape for name, shape in shapes.items() if name != HEAD}
    _compare_names(path, {name for part in tensors for name in part.theirs}, shapes.keys())
    try:
        wanted = state_shapes(spec)
    except RuntimeError as error:  # the product of the sizes overflows
        raise UserError(f"{path}: does not match config.json ({first_line(error)})") from None
    for part in tensors:
        _compare_shapes(path, part, wanted[part.ours], shapes)
    with ExitStack() as stack:
        held_by: dict[str, TensorFile] = {}
        for file in files.paths:
            try:
                held_by |= dict.fromkeys(opened := TensorFile(stack.enter_context(file.open("rb"))), opened)
            except (OSError, KeyError, TypeError, ValueError) as error:  # it has changed since `find_weights`
                raise UserError(f"{file}: cannot be read as safetensors ({first_line(error)})") from None

        def read(name: str) -> Tensor:
            tensor = held_by[name][name]
            if not tensor.isfinite().all():
                raise UserError(f"{path}: {name} holds numbers that are not finite")
            return tensor

        if copied and not torch.equal(read(HEAD), read(embedding)):
            raise UserError(f"{path}: {HEAD} differs from {embedding}, but config.json has tie_word_embeddings=true")
        return {part.ours: part.from_transformers(list(map(read, part.theirs)), wanted[part.ours]) for part in tensors}


def _compare_names(path: Path, wanted: set[str], found: Set[str]) -> None:
    if missing := sorted(wanted - found):
        raise UserError(f"{path}: {missing[0]} is missing ({len(missing)} tensors in all)")
    if extra := sorted(found - wanted):
        raise UserError(f"{path}: {extra[0]!r:.80} does not belong to the model of config.json ({len(extra)} in all)")


def _compare_shapes(path: Path, part: TensorMapping, ours: Shape, shapes: dict[str, Shape]) -> None:
    for name, wanted in zip(part.theirs, part.shapes(ours), strict=True):
        if shapes[name] != wanted:
            raise UserError(f"{path}: {name} has shape {list(shapes[name])}, config.json needs {list(wanted)}")
