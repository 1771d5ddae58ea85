"""An action repeats in the background until its block ends, also by an error."""

import threading

import pytest

from src.runtime.background import MAX_SHARE, pause_seconds, repeat_in_background


def test_an_action_repeats_until_the_block_ends() -> None:
    threads: list[threading.Thread] = []
    twice = threading.Event()

    def action() -> None:
        threads.append(threading.current_thread())
        if len(threads) >= 2:
            twice.set()

    with repeat_in_background(action, 0.001):
        assert twice.wait(60)
    assert threads[0] is threads[1] is not threading.current_thread()
    with pytest.raises(KeyError), repeat_in_background(action, 0.001):
        raise KeyError
    assert not any(thread.is_alive() for thread in threads)


def test_expensive_calls_are_further_apart() -> None:
    assert pause_seconds(1.0, 0.001) == 1.0
    assert pause_seconds(1.0, 0.5) == 0.5 / MAX_SHARE
