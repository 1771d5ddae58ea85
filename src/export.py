"""`python -m src.export run=DIR format=huggingface out=DIR`: convert a model to transformers and back."""

import json
import os
import shlex
import sys
from pathlib import Path

from src.cli.compose import run_cli, run_command
from src.cli.next_command import command_of, print_next, raw_argument
from src.config.checks import check_settings
from src.config.schema import ExportConfig, UserError
from src.runtime.atomic_files import read_json
from src.runtime.host import nearest_folder

PROMPT = "Once upon a time"
RAW = ("run", "source", "out")
FORMATS = {"huggingface": ("run", "source", "advanced_code_model.json"), "ours": ("source", "run", "checkpoints")}
"""Per format: the setting it reads, the one it ignores, and a file or folder of each export."""


def export(config: ExportConfig) -> int:
    """Write the folder and print its path."""
    check_settings(config)
    needed, unused, marker = FORMATS[config.format]
    if not getattr(config, needed):
        raise UserError(f"{needed}: is needed; write {needed}=DIR for format={config.format}")
    if getattr(config, unused) is not None:
        raise UserError(f"{unused}: has no effect with format={config.format}, which reads {needed}=DIR; leave it out")
    out = check_out(config.out, marker)

    from src.huggingface.convert_run import export_run, import_run

    given = Path(getattr(config, needed)).expanduser().resolve()
    try:
        (export_run if config.format == "huggingface" else import_run)(given, out)
    except UserError as error:  # its line begins with the path
        line = str(error).replace("\n", " ")  # it may hold texts of the source
        raise UserError(f"{needed}={line}") from None
    except FileExistsError:
        raise _already_exists(config.out) from None
    print(f"Export: {out}")
    print_next(next_commands(config.format, out))
    return 0


def next_commands(format: str, out: Path) -> list[str]:
    """Return how to use an export: with transformers anywhere, or as a run here."""
    if format == "ours":
        return [command_of("generate", raw_argument("run", out), raw_argument("prompt", PROMPT))]
    trust = ", trust_remote_code=True" if "auto_map" in read_json(out / "config.json") else ""
    pipe = f'pipeline("text-generation", {json.dumps(str(out))}{trust})({json.dumps(PROMPT)})'
    code = f'from transformers import pipeline; print({pipe}[0]["generated_text"])'
    return [f"python -c {shlex.quote(code)}"]


def _already_exists(given: str) -> UserError:
    return UserError(f"out={given}: already exists and is no export of this command; give a new or an empty folder")


def check_out(given: str, marker: str) -> Path:
    """Return the folder to write: a new one, an empty one, or an earlier export, recognized by `marker`.

    Raises: UserError if something would be overwritten, or the folder cannot be created.
    """
    if not given:
        raise UserError("out: is empty; name the folder to write")
    try:
        out = Path(given).expanduser().resolve()
        is_taken = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / marker).exists()))
        nearest = nearest_folder(out.parent)
    except (OSError, RuntimeError, ValueError) as error:  # unknown home, loop of links, NUL character
        raise UserError(f"out={given}: cannot be written ({error}); give another folder") from None
    if is_taken:
        raise _already_exists(given)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"out={given}: {nearest} is not a writable folder; give another")
    return out


def main(argv: list[str]) -> int:
    return run_command("export", ExportConfig, export, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
