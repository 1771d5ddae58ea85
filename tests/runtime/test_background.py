"""Work in a thread ends with its block, and its errors are raised; an action repeats until its block ends."""

import threading

import pytest

from src.runtime.background import MAX_SHARE, BackgroundTask, open_background_task, pause_seconds, repeat_in_background


def fail() -> None:
    raise OSError("disk full")


def wait_until_ended(task: BackgroundTask) -> None:
    assert task._call is not None  # pyright: ignore[reportPrivateUsage]
    task._call.exception(60)  # pyright: ignore[reportPrivateUsage]


def test_calls_run_one_at_a_time_while_the_block_goes_on() -> None:
    calls: list[str] = []
    released = threading.Event()

    def wait() -> None:
        assert released.wait(60)
        calls.append("first")

    with open_background_task() as task:
        task.start(wait)
        task.raise_if_failed()  # does not wait
        assert calls == []
        threading.Timer(0.01, released.set).start()
        task.start(lambda: calls.append("second"))
        assert calls[0] == "first"
    assert calls == ["first", "second"]


def test_an_error_is_raised_once_by_whoever_asks_next() -> None:
    with open_background_task() as task:
        for ask in (task.wait, task.raise_if_failed, lambda: task.start(lambda: None)):
            task.start(fail)
            wait_until_ended(task)
            with pytest.raises(OSError, match="disk full"):
                ask()
            task.wait()
    with pytest.raises(OSError, match="disk full"), open_background_task() as task:
        task.start(fail)


def test_an_error_of_the_block_comes_before_that_of_the_call_and_waits_for_it() -> None:
    released, ended = threading.Event(), threading.Event()

    def wait_and_fail() -> None:
        assert released.wait(60)
        ended.set()
        fail()

    def fail_first() -> None:
        with open_background_task() as task:
            task.start(wait_and_fail)
            threading.Timer(0.01, released.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail_first()
    assert ended.is_set()


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
