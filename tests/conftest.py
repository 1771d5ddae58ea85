"""Fixtures and settings of all tests: no accounts, no display, deterministic examples; device tests need the device."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.pop("WANDB_API_KEY", None)
os.environ["NETRC"] = os.devnull  # W&B also looks for a login there; tests never use a real account
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["MPLBACKEND"] = "agg"
# The commands that tests start would compile all of src each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# One thread: small tensors gain nothing from more, and on a busy machine waiting threads cost much time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, and no time limit per example: a busy machine must not fail a test.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


VARIANTS = frozenset("mamba1 gated_deltanet jamba griffin moe_hybrid window_attention dense_conv dense_qk_norm".split())
"""Architectures besides the four of the default comparison: slow, so that `make test` leaves them out."""
MODERN_ONLY = frozenset(("mamba", "moe", "hybrid"))
"""Architectures that `make test` tests with the modern recipe alone; dense has both."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the small corpus of tests/integration/tiny.py; read only."""
    from tests.integration import tiny

    return tiny.data_dir(tmp_path_factory)


@pytest.fixture
def without_cpu_kernels() -> Iterator[None]:
    """Use the kernels of other devices on the CPU."""
    from src.model.blocks.base import disable_cpu_kernels

    with disable_cpu_kernels():
        yield


@pytest.fixture(autouse=True)
def _empty_images(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports write empty images, except in tests marked `images`: drawing takes most of a report's time."""
    if not request.node.get_closest_marker("images"):
        from matplotlib.figure import Figure

        from src.reporting.output import write

        monkeypatch.setattr(write, "draw", lambda *_: Figure(figsize=(1, 1)))


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def _is_variant(item: pytest.Item) -> bool:
    """Whether a test's parameters name a variant, or the older recipe with another architecture than dense."""
    callspec = getattr(item, "callspec", None)
    values = {value for value in callspec.params.values() if isinstance(value, str)} if callspec else set[str]()
    return bool(values & VARIANTS) or ("classic" in values and bool(values & MODERN_ONLY))


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collections, and collect less often: they took 9% of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of variants as slow, and skip tests of missing devices.

    Torch is imported only if a test is marked mps or cuda.
    """
    for item in filter(_is_variant, items):
        item.add_marker(pytest.mark.slow)
    marked = [(item, name) for item in items for name in ("mps", "cuda") if item.get_closest_marker(name)]
    if not marked:
        return
    import torch

    present = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    for item, name in marked:
        if not present[name]:
            item.add_marker(pytest.mark.skip(reason=f"no {name} device here"))
