"""Measure the memory of tensors on the CPU.

Live bytes come from the allocator through torch's profiler, so that temporary memory of kernels counts too.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch


def peak_growth(action: Callable[[], Any]) -> int:
    """Run `action` and return the peak bytes of live tensors beyond those before it.

    Tensors that `action` frees but did not allocate are counted as freed only if an earlier call of this function
    observed their allocation, because the allocator does not store sizes.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages on standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = [event for event in trace if event.get("name") == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: (event["ts"], event["args"]["Ev Idx"])):
        alive += event["args"]["Bytes"]
        peak = max(peak, alive)
    return peak
