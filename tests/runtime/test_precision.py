"""A precision without CPU instructions is detected by its speed."""

import pytest

from src.runtime import precision
from src.runtime.device import Device


@pytest.mark.parametrize(
    ("times", "message"), [(46.2, "products take 46 times as long as in fp32 on this CPU,"), (0.5, None)]
)
def test_a_precision_without_instructions_is_reported(
    times: float, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"fp32": 1e11, "bf16": 1e11 / times}
    monkeypatch.setattr(precision, "matmul_speed", lambda device, precision, size, seconds: speeds[precision])
    found = precision.slow_precision_warning(Device("cpu", "bf16", 1))
    assert found is None if message is None else found and message in found
    assert precision.slow_precision_warning(Device("cpu", "fp32", 1)) is None
