"""The fixture with transformers, imported once per session."""

from typing import Any

import pytest

from tests.huggingface.cases import open_transformers


@pytest.fixture(scope="session")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_transformers(tmp_path_factory.getbasetemp() / "transformers")
