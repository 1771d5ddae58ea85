"""What holds for every test: no account, no display, repeatable examples; device tests only where the device is."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.pop("WANDB_API_KEY", None)
os.environ["NETRC"] = os.devnull  # where W&B looks for a login besides: tests never reach anyone's account
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["MPLBACKEND"] = "agg"
# One thread: small tensors gain nothing from more, and on a busy machine threads that wait for each other lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, and no time limit an example: a busy machine must not fail a test.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the small corpus of tests/integration/tiny.py; read only."""
    from tests.integration import tiny

    return tiny.data_dir(tmp_path_factory)


@pytest.fixture
def without_cpu_kernels() -> Iterator[None]:
    """Compute with the kernels of other devices."""
    from src.model.blocks.base import disable_cpu_kernels

    with disable_cpu_kernels():
        yield


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked mps or cuda where there is no such device; torch is imported only if there are any."""
    marked = [(item, name) for item in items for name in ("mps", "cuda") if item.get_closest_marker(name)]
    if not marked:
        return
    import torch

    present = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    for item, name in marked:
        if not present[name]:
            item.add_marker(pytest.mark.skip(reason=f"no {name} device here"))
