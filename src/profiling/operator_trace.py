"""Check a training step for MPS without a Mac: trace its operations and look them up in torch's list of kernels.

Tests check every step (`tests/contract/test_mps_gate.py`); the benchmark reports the counts.

A step runs on the CPU under two modes of torch that record it: the operations and whether MPS has a kernel for each,
dtypes, shapes, convolution weights, and every synchronization with the device. `tolist` and similar calls read a CPU
tensor without an operation, so they are recorded as calls.

Not covered: operations inside composite kernels, which kernel MPS prefers if it has its own (for that reason attention
runs as plain arithmetic here), and whether the numbers are correct; `python -m src.doctor` checks that on a Mac.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchgen
import yaml
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from src.config.schema import ROOT

NATIVE_FUNCTIONS = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
UNSUPPORTED_DTYPES = {torch.float64, torch.complex128}
SYNC_CALLS = set("item tolist cpu numpy nonzero __bool__ __int__ __float__ __index__ __contains__ __array__".split())
SYNC_OPS = set("_local_scalar_dense nonzero masked_select equal is_nonzero _unique2 unique_dim".split())
BOOKKEEPING = {"profiler"}
"""Namespaces of operations without tensors."""


@cache
def read_kernels() -> dict[str, frozenset[str]]:
    """Return the dispatch keys with a kernel for every operation, by name and overload.

    `structured_delegate` shares the kernels of another entry; `autogen` lists operations generated from an entry as
    composites.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {
        entry["func"].partition("(")[0]: entry
        for entry in yaml.load(NATIVE_FUNCTIONS.read_text(encoding="utf-8"), Loader=loader)
    }
    found: dict[str, frozenset[str]] = {}
    for name, entry in entries.items():
        source = entries[entry["structured_delegate"]] if "structured_delegate" in entry else entry
        keys = source.get("dispatch", {"CompositeImplicitAutograd": ""})
        found[name] = frozenset(key.strip() for several in keys for key in several.split(","))
        if "ufunc_inner_loop" in source:  # kernels of both devices are generated from it
            found[name] |= {"CPU", "CUDA"}
        for generated in filter(None, (part.strip() for part in entry.get("autogen", "").split(","))):
            found[generated] = frozenset({"CompositeExplicitAutograd"})
    return found


def runs_on_mps(name: str) -> bool:
    """Return whether torch lists a kernel that works on MPS, for a name such as `add.Tensor`."""
    keys = read_kernels().get(name, frozenset())
    return "MPS" in keys or any(key.startswith("Composite") for key in keys)


def name_of(func: Any) -> str:
    """Return name and overload as in native_functions.yaml."""
    schema = func._schema
    return schema.name.removeprefix("aten::") + (f".{schema.overload_name}" if schema.overload_name else "")


class OperatorTrace:
    """A context manager that records the operations and synchronizations of the code inside `with`."""

    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.signatures: set[tuple[Any, ...]] = set()
        """(operation, shape and dtype of every tensor that goes in or comes out)."""
        self.float64: set[str] = set()
        self.bad_convolutions: set[str] = set()
        self.waits: Counter[str] = Counter()
        """`FILE: CALL` for every read of a value from the device."""
        self._modes = ExitStack()

    def __enter__(self) -> "OperatorTrace":
        for mode in (sdpa_kernel(SDPBackend.MATH), _CallMode(self), _OperationMode(self)):
            self._modes.enter_context(mode)
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def violations(self, known_waits: set[str] | frozenset[str] = frozenset()) -> list[str]:
        """Return the violated rules, one line each."""
        return sorted(
            [f"no MPS kernel: {name}" for name in self.ops if not runs_on_mps(name)]
            + [f"float64: {name}" for name in self.float64]
            + [f"weight not contiguous: {name}" for name in self.bad_convolutions]
            + [f"waits for the device: {place}" for place in self.waits.keys() - known_waits]
        )

    def record(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Record one operation."""
        name, tensors = name_of(func), [*inputs, *outputs]
        self.ops[name] += 1
        self.signatures.add((name, *((tuple(one.shape), one.dtype) for one in tensors)))
        if any(one.dtype in UNSUPPORTED_DTYPES for one in tensors):
            self.float64.add(name)
        plain = name.partition(".")[0]
        weight_at = {"convolution": 1, "convolution_backward": 2}.get(plain)
        if weight_at is not None and not inputs[weight_at].is_contiguous():
            self.bad_convolutions.add(name)
        is_mask_index = plain.startswith("index") and any(one.dtype == torch.bool for one in inputs[1:])
        if plain in SYNC_OPS or is_mask_index:  # the shape of the result depends on the mask
            self.waits[f"{_calling_file()}: {name}"] += 1


class _OperationMode(TorchDispatchMode):
    """Records operations below autograd, including backward passes and optimizers."""

    def __init__(self, trace: OperatorTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in BOOKKEEPING:
            return func(*args, **kwargs)
        if func.namespace != "aten":  # written in Python: trace the operations inside it
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        result = func(*args, **kwargs)
        self.trace.record(func, list(_iterate_tensors((args, kwargs))), list(_iterate_tensors(result)))
        return result


class _CallMode(TorchFunctionMode):
    """Records calls that read a tensor's values, which on the CPU are not operations."""

    def __init__(self, trace: OperatorTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # Only as a string: a device object is that of another tensor, in code that runs on any device.
        to_cpu = name == "to" and "cpu" in [item for item in (*args[1:], *(kwargs or {}).values()) if type(item) is str]
        if name in SYNC_CALLS or to_cpu:
            self.trace.waits[f"{_calling_file()}: {name}"] += 1
        return func(*args, **(kwargs or {}))


def _calling_file() -> str:
    """Return our file that made the call, or torch's if there is none."""
    frame, caller = sys._getframe(1), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "src") and path != Path(__file__):
            return str(path.relative_to(ROOT))
        if not caller and path.name not in (Path(__file__).name, "_python_dispatch.py", "overrides.py"):
            caller = path.name
        frame = frame.f_back
    return caller


def _iterate_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _iterate_tensors(item)
    elif isinstance(value, dict):
        yield from _iterate_tensors(list(value.values()))
