"""Measure what tensors take in memory on the CPU, and the training step that such measurements are of.

Live bytes come from the allocator by way of torch's profiler, so that what a kernel takes for itself counts too.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch


def peak_growth(action: Callable[[], Any]) -> int:
    """Run `action` and return how many bytes of tensors were alive at its worst moment, beyond those before it.

    Tensors that `action` frees and did not make are counted as freed only if an earlier call of this function saw them
    being made: the allocator does not remember sizes by itself.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would announce itself on standard error
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
