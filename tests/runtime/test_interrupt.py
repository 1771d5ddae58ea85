"""Ctrl-C while a command starts ends it with status 130 and without a traceback."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.__main__ import COMMANDS
from src.cli import command as command_module
from src.config.schema import ROOT

ARGUMENTS = {"train": ["dry_run=true"], "tune": [], "estimate": ["-m", "seed=range(1000)"], "doctor": []}


def interrupted(command: str, after_s: float, folder: Path) -> tuple[int, str]:
    """Start a command, interrupt it `after_s` seconds after its first import, and return how it ended."""
    mark = folder / "started"
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Mark:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.startswith('src.'): open({str(mark)!r}, 'w').close()\n"
        "sys.meta_path.insert(0, Mark())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", f"src.{command}", *ARGUMENTS.get(command, []), f"output_root={folder / 'out'}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not mark.exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("command", ["train", "generate"])
@pytest.mark.parametrize("after_s", [0.0, 0.3])
def test_ctrl_c_in_the_first_second(command: str, after_s: float, tmp_path: Path) -> None:
    status, said = interrupted(command, after_s, tmp_path)
    assert (status, "Traceback" in said, "Exception" in said) == (130, False, False), said


def interrupt(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def read_argument() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("value", type=interrupt)
    parser.parse_known_intermixed_args(["x"])


def read_setting() -> None:
    OmegaConf.register_new_resolver("interrupt", interrupt, replace=True)
    OmegaConf.to_container(OmegaConf.create({"key": "${interrupt:}"}), resolve=True)


@pytest.mark.parametrize("read", [read_argument, read_setting])
def test_ctrl_c_while_settings_are_read(read: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries can replace KeyboardInterrupt by an error of their own."""
    monkeypatch.setattr(command_module, "exit_immediately", lambda number, frame: sys.exit(128 + number))
    before = signal.signal(signal.SIGINT, command_module.raise_interrupt)
    try:
        with pytest.raises(SystemExit) as caught:
            read()
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_at_any_time(command: str, tmp_path: Path) -> None:
    for number in range(12):
        status, said = interrupted(command, number * 0.15, tmp_path)
        (tmp_path / "started").unlink(missing_ok=True)
        # An interpreter that is ending is killed by the signal itself, which a shell shows as 130 too.
        assert status in (130, -signal.SIGINT, 0, 2) and "Traceback" not in said and "Exception" not in said, (
            number,
            status,
            said,
        )
