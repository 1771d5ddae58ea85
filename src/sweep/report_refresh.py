"""Write the report of a sweep again while it runs, so that its page shows the jobs that are done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from src.reporting import write_report
from src.runtime.background import repeat_in_background
from src.sweep.job_store import JobStore

POLL_S = 2.0
RELOAD_S = 60
"""After how many seconds the page loads itself again."""
TIME_SHARE = 0.02
"""The most that writing may take of the time of a sweep, since it takes cores from training."""


@contextmanager
def refresh_report(store: JobStore, margin: float | None) -> Iterator[None]:
    """Write the report during the block whenever further jobs are done.

    margin: as for `write_report`.
    """
    written, next_at = _count_done(store), 0.0

    def refresh() -> None:
        nonlocal written, next_at
        started, done = time.monotonic(), _count_done(store)
        if done == written or started < next_at:
            return
        with suppress(Exception):  # the report after the last job raises what is wrong
            write_report(store.folder, margin=margin, reload_s=RELOAD_S)
        written, now = done, time.monotonic()
        next_at = now + (now - started) / TIME_SHARE

    with repeat_in_background(refresh, POLL_S):
        yield


def _count_done(store: JobStore) -> int:
    return sum(store.is_done(job) for job in store.jobs())
