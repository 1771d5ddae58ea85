"""Run a command: compose its settings, and turn an error that the user can fix into one line and an exit status."""

import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from src import exit_immediately
from src.cli.command_line import has_hydra_flag, parse_arguments
from src.cli.compose import compose_config, register_schema
from src.cli.help import show_hydra_help
from src.config.schema import UserError
from src.runtime.atomic_files import storage_remedy
from src.runtime.host import limit_omp_spin
from src.runtime.log import replace_control_chars

T = TypeVar("T")


def run_command(
    command: str, schema: type[T], body: Callable[[T], int], argv: list[str], raw: Sequence[str] = ()
) -> int:
    """Run a command without sweeps: compose, call `body`, return the exit status.

    raw: keys whose values bypass Hydra's grammar.
    """

    def compose_and_run() -> int:
        register_schema(schema, command)
        taken, rest = {}, []
        for argument in argv:
            key, sign, value = argument.partition("=")
            if sign and key in raw:
                taken[key] = value
            else:
                rest.append(argument)
        arguments = parse_arguments(rest)
        if has_hydra_flag(arguments):
            show_hydra_help(command, rest, arguments.overrides)
            return 0
        if arguments.multirun:
            raise UserError(f"--multirun: {command} has no sweeps; only train and estimate have")
        # A placeholder satisfies mandatory keys; the raw value replaces it.
        config = compose_config(schema, command, [*arguments.overrides, *(f"{key}=raw" for key in taken)])
        return body(dataclasses.replace(typing.cast(Any, config), **taken))

    return run_cli(compose_and_run)


def run_cli(action: Callable[[], int]) -> int:
    """Run a command; an error that the user can fix becomes one line on standard error and status 2."""
    limit_omp_spin()
    try:
        with handle_interrupts():
            return action()
    except UserError as error:
        report_error(str(error))
        return 2
    except BrokenPipeError:  # the reader of the output, for example `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if (remedy := storage_remedy(error)) is None:
            raise
        report_error(f"{error.filename or 'disk'}: {error.strerror}; {remedy}")
        return 2
    except KeyboardInterrupt:
        return 130


@contextmanager
def handle_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt during the block; before and after it, Ctrl-C exits at once."""
    if signal.getsignal(signal.SIGINT) is not exit_immediately:  # called as a library, or by another command
        yield
        return
    signal.signal(signal.SIGINT, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, exit_immediately)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but exit in imports and where settings are read: libraries replace errors."""
    while frame is not None:
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if "importlib._bootstrap" in frame.f_code.co_filename or library in ("argparse", "omegaconf"):
            exit_immediately(number, None)
        frame = frame.f_back
    raise KeyboardInterrupt


def report_error(line: str) -> None:
    """Print an error to standard error as one line."""
    print(replace_control_chars(f"error: {line}".replace("\n", "\\n")), file=sys.stderr)
