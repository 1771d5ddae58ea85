"""`python -m src.export run=DIR format=huggingface out=DIR`: a model as transformers loads it, and the way back."""

import os
import sys
from pathlib import Path

from src.cli.compose import run_cli, run_command
from src.config.checks import check_settings
from src.config.schema import ExportConfig, UserError

RAW = ("run", "source", "out")
FORMATS = {"huggingface": ("run", "source", "advanced_code_model.json"), "ours": ("source", "run", "checkpoints")}
"""What each format is made of, what has no part in it, and what an export in it holds."""


def export(config: ExportConfig) -> int:
    """Write the folder, and say where it is."""
    check_settings(config)
    needed, senseless, held = FORMATS[config.format]
    if not getattr(config, needed):
        raise UserError(f"{needed}: is needed; write {needed}=DIR for format={config.format}")
    if getattr(config, senseless) is not None:
        raise UserError(f"{senseless}: has no part in format={config.format}, which reads {needed}=DIR; leave it out")
    out = check_out(config.out, held)

    from src.huggingface.convert_run import to_huggingface, to_ours

    given = Path(getattr(config, needed)).expanduser().resolve()
    try:
        (to_huggingface if config.format == "huggingface" else to_ours)(given, out)
    except UserError as error:  # its line begins with the path
        line = str(error).replace("\n", " ")  # it may hold texts of the source
        raise UserError(f"{needed}={line}") from None
    except FileExistsError:
        raise _taken(config.out) from None
    print(f"Export: {out}")
    return 0


def _taken(given: str) -> UserError:
    return UserError(
        f"out={given}: is there already, and not what this command writes; "
        "give a folder that is not there yet, or an empty one"
    )


def check_out(given: str, held: str) -> Path:
    """Find the folder to write: none yet, an empty one, or one that holds what an earlier run of the command wrote.

    Raises: UserError where something would be overwritten, or no folder can be made.
    """
    if not given:
        raise UserError("out: is empty; name the folder to write")
    try:
        out = Path(given).expanduser().resolve()
        taken = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / held).exists()))
        nearest = next(folder for folder in out.parents if folder.exists())
    except (OSError, RuntimeError, ValueError) as error:  # no such home; a loop of links; a NUL character
        raise UserError(f"out={given}: cannot be written ({error}); give another folder") from None
    if taken:
        raise _taken(given)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"out={given}: {nearest} is no folder that you can write to; give another")
    return out


def main(argv: list[str]) -> int:
    return run_command("export", ExportConfig, export, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
