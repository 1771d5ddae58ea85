"""Stop signals are recorded; a second Ctrl-C ends the process at once."""

import signal
import subprocess
import sys

import pytest

from src.config.schema import ROOT
from src.runtime.signals import STOP_SIGNALS, Interrupted, handle_stop_signals, stop_signal


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_recorded_and_does_not_end_the_process(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with handle_stop_signals() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        assert stop.number == number
    assert Interrupted(number).exit_code == 128 + number
    assert str(Interrupted(number)) == number.name
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_signal_handlers_are_restored_after_an_exception() -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with pytest.raises(ZeroDivisionError), handle_stop_signals():
        raise ZeroDivisionError
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


PROGRAM = """
import signal, sys
from src.runtime.signals import handle_stop_signals
with handle_stop_signals() as stop:
    for name in sys.argv[1:]:
        signal.raise_signal(signal.Signals[name])
    sys.exit(7 if stop.number else 8)
"""


@pytest.mark.parametrize(
    ("signals", "status"),
    [(["SIGINT"], 7), (["SIGINT", "SIGINT"], 130), (["SIGTERM", "SIGINT"], 7), (["SIGTERM", "SIGTERM"], 7)],
)
def test_a_second_ctrl_c_ends_the_process_at_once(signals: list[str], status: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *signals], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == status


def test_stop_signals_are_distinguished_from_other_exit_codes() -> None:
    ends = {130: 2, 143: 15, -15: 15, 138: 10, -9: None, 137: None, 0: None, 1: None, 2: None, -11: None}
    assert {code: stop_signal(code) for code in ends} == ends
