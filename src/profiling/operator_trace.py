"""What can be known of MPS without a Mac: every operation of a step, looked up in torch's own list of kernels.

The tests hold every step against its rules (`tests/contract/test_mps_gate.py`); the benchmark counts by it.

A step runs on the CPU, and two modes of torch write down what it asks for. Seen from there are the operations and
whether MPS has a kernel for each, dtypes, shapes, convolution weights, and every place that would wait for the device.
`tolist` and its like read a CPU tensor without an operation, so they are caught as calls.

Not seen: what a composite kernel calls inside, which kernel MPS prefers where it has one of its own (attention is run
as plain arithmetic here, for that reason), and whether its numbers are right: for that there is `python -m src.doctor`,
on a Mac.
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
TOO_WIDE = {torch.float64, torch.complex128}
WAITING_CALLS = set("item tolist cpu numpy nonzero __bool__ __int__ __float__ __index__ __contains__ __array__".split())
WAITING_OPS = set("_local_scalar_dense nonzero masked_select equal is_nonzero _unique2 unique_dim".split())
BOOKKEEPING = {"profiler"}
"""Namespaces whose operations touch no tensor."""


@cache
def kernels() -> dict[str, frozenset[str]]:
    """Read for every operation, by name and overload, the dispatch keys it has a kernel for.

    `structured_delegate` shares the kernels of another entry; what `autogen` names is made from its entry, composite.
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
        if "ufunc_inner_loop" in source:  # the kernels of these two are generated from it
            found[name] |= {"CPU", "CUDA"}
        for made in filter(None, (part.strip() for part in entry.get("autogen", "").split(","))):
            found[made] = frozenset({"CompositeExplicitAutograd"})
    return found


def runs_on_mps(name: str) -> bool:
    """Tell whether torch lists a kernel that serves MPS, for a name such as `add.Tensor`."""
    keys = kernels().get(name, frozenset())
    return "MPS" in keys or any(key.startswith("Composite") for key in keys)


def name_of(func: Any) -> str:
    """Return name and overload as native_functions.yaml writes them."""
    schema = func._schema
    return schema.name.removeprefix("aten::") + (f".{schema.overload_name}" if schema.overload_name else "")


class Watch:
    """Write down what the code inside `with` asks of a device."""

    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.signatures: set[tuple[Any, ...]] = set()
        """(operation, shape and dtype of every tensor that goes in or comes out)."""
        self.float64: set[str] = set()
        self.bad_convolutions: set[str] = set()
        self.waits: Counter[str] = Counter()
        """`FILE: CALL`, for whatever needs a number from the device at once."""
        self._modes = ExitStack()

    def __enter__(self) -> "Watch":
        for mode in (sdpa_kernel(SDPBackend.MATH), _Calls(self), _Operations(self)):
            self._modes.enter_context(mode)
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def complaints(self, known_waits: set[str] | frozenset[str] = frozenset()) -> list[str]:
        """Say in what the rules are broken, one line each."""
        return sorted(
            [f"no MPS kernel: {name}" for name in self.ops if not runs_on_mps(name)]
            + [f"float64: {name}" for name in self.float64]
            + [f"weight not contiguous: {name}" for name in self.bad_convolutions]
            + [f"waits for the device: {place}" for place in self.waits.keys() - known_waits]
        )

    def note(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Book one operation."""
        name, tensors = name_of(func), [*inputs, *outputs]
        self.ops[name] += 1
        self.signatures.add((name, *((tuple(one.shape), one.dtype) for one in tensors)))
        if any(one.dtype in TOO_WIDE for one in tensors):
            self.float64.add(name)
        plain = name.partition(".")[0]
        weight_at = {"convolution": 1, "convolution_backward": 2}.get(plain)
        if weight_at is not None and not inputs[weight_at].is_contiguous():
            self.bad_convolutions.add(name)
        by_mask = plain.startswith("index") and any(one.dtype == torch.bool for one in inputs[1:])
        if plain in WAITING_OPS or by_mask:  # how many a mask picks decides a shape
            self.waits[f"{_place()}: {name}"] += 1


class _Operations(TorchDispatchMode):
    """Every operation below autograd, backward passes and optimizers included."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in BOOKKEEPING:
            return func(*args, **kwargs)
        if func.namespace != "aten":  # written in Python: look at the operations inside instead
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        result = func(*args, **kwargs)
        self.watch.note(func, list(_tensors((args, kwargs))), list(_tensors(result)))
        return result


class _Calls(TorchFunctionMode):
    """Calls that read a tensor's values, which on the CPU are no operations."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # As a word: a device object that says cpu is, in code that runs anywhere, the device of another tensor.
        to_cpu = name == "to" and "cpu" in [item for item in (*args[1:], *(kwargs or {}).values()) if type(item) is str]
        if name in WAITING_CALLS or to_cpu:
            self.watch.waits[f"{_place()}: {name}"] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """Name the file of ours that made the call, or the one of torch where none did."""
    frame, here = sys._getframe(1), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "src") and path != Path(__file__):
            return str(path.relative_to(ROOT))
        if not here and path.name not in (Path(__file__).name, "_python_dispatch.py", "overrides.py"):
            here = path.name
        frame = frame.f_back
    return here


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
