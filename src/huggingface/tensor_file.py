"""Read and write safetensors files with one tensor in memory at a time.

The library writes a file from all tensors at once, and maps a whole file to read it, which a model that fills half of
the memory does not allow. The format: the length of the header (8 bytes, little-endian), the header as JSON (for each
name the type, the shape, and the offsets of its bytes), and the bytes of all tensors.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from src.config.schema import ModelSpec
from src.huggingface.weight_mapping import Shape
from src.model.language_model import LanguageModel

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NAMES = {dtype: name for name, dtype in TYPES.items()}
ALIGNMENT = 8


class Entry(NamedTuple):
    """Where the bytes of a tensor are."""

    dtype: torch.dtype
    shape: Shape
    begin: int
    """Offset in the file."""


class _EmptyModel(LanguageModel):
    """A model that draws no weights. On the device `meta`, that would import torch's compiler: 160 MB and 2 s."""

    def init_weights(self) -> None:
        """Do nothing."""


class _SkipNormal(TorchFunctionMode):
    """Leaves out the weights that an embedding draws when it is made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is init.normal_:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build_empty_model(spec: ModelSpec) -> LanguageModel:
    """Return a model without weights of its own. Raises RuntimeError if a product of the sizes overflows."""
    with torch.device("meta"), _SkipNormal():
        return _EmptyModel(spec)


def state_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return the shapes of a model's `state_dict`. Raises RuntimeError as `build_empty_model`."""
    return {name: tuple(tensor.shape) for name, tensor in build_empty_model(spec).state_dict().items()}


class TensorFile(Mapping[str, Tensor]):
    """The tensors of an open file, in fp32. Each is read when it is looked up, and not kept.

    The file stays that of the handle, also if a training run replaces it in the meantime.
    """

    def __init__(self, handle: BinaryIO) -> None:
        """Read the header. Raises KeyError, TypeError or ValueError if it is none."""
        self._handle = handle
        handle.seek(0)
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        self._entries = {
            name: Entry(TYPES[item["dtype"]], tuple(item["shape"]), start + item["data_offsets"][0])
            for name, item in header.items()
        }

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: entry.shape for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        content = bytearray(prod(entry.shape) * entry.dtype.itemsize)
        self._handle.seek(entry.begin)
        if self._handle.readinto(content) != len(content):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{name}: the file is truncated")
        return torch.frombuffer(content, dtype=entry.dtype).view(entry.shape).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def write_tensors(
    path: Path, shapes: Mapping[str, Shape], tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> None:
    """Write tensors to a new file as `dtype`, in the order of `shapes`, each as it comes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers 4 refuses a file without it
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), expected in zip(tensors, shapes, strict=True):
            assert name == expected and tuple(tensor.shape) == shapes[name], name
            file.write(tensor.to(dtype).contiguous().view(torch.uint8).numpy().data)
