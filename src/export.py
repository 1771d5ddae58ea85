"""`python -m src.export run=DIR format=huggingface out=DIR`: convert a model to transformers and back, and to GGUF."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.next_command import command_of, print_next, raw_argument
from src.config.checks import check_settings
from src.config.schema import ExportConfig, UserError
from src.runtime.atomic_files import read_json
from src.runtime.host import nearest_folder

PROMPT = "Once upon a time"
RAW = ("run", "source", "out", "push")
FORMATS = {"huggingface": ("run", "source"), "gguf": ("run", "source"), "ours": ("source", "run")}
"""The setting that each format reads, and the one that has no effect."""
DTYPES = {"huggingface": ("f32", "bf16"), "gguf": ("f32", "f16", "bf16", "q8_0"), "ours": ()}
"""The types of weights that each format has."""
OF_CARD = ("license", "language", "push")
"""Settings of format=huggingface alone."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual")
MARKERS = {"huggingface": "advanced_code_model.json", "ours": "checkpoints"}
"""A file or folder of each export."""
MARKER_BYTES = 1 << 16
"""The name of the key that marks a GGUF file is in its beginning."""


def export(config: ExportConfig) -> int:
    """Write the folder and print its path."""
    check_settings(config)
    needed, unused = FORMATS[config.format]
    if not getattr(config, needed):
        raise UserError(f"{needed}: is needed; write {needed}=DIR for format={config.format}")
    if getattr(config, unused) is not None:
        raise UserError(f"{unused}: has no effect with format={config.format}, which reads {needed}=DIR; leave it out")
    _check_options(config)
    out = check_out(config.out, config.format)

    from src.huggingface.card_metadata import Stated
    from src.huggingface.convert_run import export_gguf, export_run, import_run

    given = Path(getattr(config, needed)).expanduser().resolve()
    notes: list[str] = []
    try:
        if config.format == "gguf":
            notes = export_gguf(given, out, config.dtype or "f32")
        elif config.format == "huggingface":
            export_run(given, out, config.dtype or "f32", Stated(config.license, tuple(config.language)))
        else:
            import_run(given, out)
    except UserError as error:  # its line begins with the path
        line = str(error).replace("\n", " ")  # it may hold texts of the source
        raise UserError(f"{needed}={line}") from None
    except FileExistsError:
        raise _already_exists(config.out) from None
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"Export: {out}")
    if config.push:
        from src.huggingface.hub import push_folder

        print(f"Pushed: {push_folder(out, config.push)}")
    print_next(next_commands(config.format, out))
    return 0


def _check_options(config: ExportConfig) -> None:
    """Check the settings that not every format has. Raises: UserError."""
    if config.dtype is not None and config.dtype not in (possible := DTYPES[config.format]):
        remedy = f"must be one of {', '.join(possible)}" if possible else "has no effect; leave it out"
        raise UserError(f"dtype={config.dtype}: for format={config.format}, {remedy}")
    for name in OF_CARD:
        if config.format != "huggingface" and getattr(config, name):
            raise UserError(f"{name}: is for format=huggingface; leave it out")
    if config.license is not None and not LICENSE.fullmatch(config.license):
        raise UserError(f"license={config.license:.100}: not an identifier of the hub; write one such as apache-2.0")
    for code in config.language:
        if not LANGUAGE.fullmatch(code):
            raise UserError(f"language={code:.100}: not a code of ISO 639; write two letters, such as en")
    if config.push is not None:
        from src.huggingface.hub import check_push

        check_push(config.push)


def next_commands(format: str, out: Path) -> list[str]:
    """Return how to use an export: with transformers or llama.cpp anywhere, or as a run here."""
    if format == "ours":
        return [command_of("generate", raw_argument("run", out), raw_argument("prompt", PROMPT))]
    if format == "gguf":
        file, model = shlex.quote(str(out)), shlex.quote(str(out.with_suffix(".Modelfile")))
        return [
            f"llama-completion -m {file} -no-cnv -p {shlex.quote(PROMPT)}",
            f"ollama create {shlex.quote(out.stem)} -f {model}",
        ]
    trust = ", trust_remote_code=True" if "auto_map" in read_json(out / "config.json") else ""
    pipe = f'pipeline("text-generation", {json.dumps(str(out))}{trust})({json.dumps(PROMPT)})'
    code = f'from transformers import pipeline; print({pipe}[0]["generated_text"])'
    return [f"python -c {shlex.quote(code)}"]


def _already_exists(given: str) -> UserError:
    return UserError(f"out={given}: already exists and is no export of this command; give a new path")


def check_out(given: str, format: str) -> Path:
    """Return the path to write: a new one, an empty folder, or an earlier export, recognized by its marker.

    Raises: UserError if something would be overwritten, or the path cannot be created.
    """
    if not given:
        raise UserError("out: is empty; name what to write")
    try:
        out = Path(given).expanduser().resolve()
        is_taken = out.exists() and not _is_earlier_export(out, format)
        nearest = nearest_folder(out.parent)
    except (OSError, RuntimeError, ValueError) as error:  # unknown home, loop of links, NUL character
        raise UserError(f"out={given}: cannot be written ({error}); give another path") from None
    if is_taken:
        raise _already_exists(given)
    if format == "gguf" and out.suffix != ".gguf":
        raise UserError(f"out={given}: give a file that ends in .gguf")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"out={given}: {nearest} is not a writable folder; give another")
    return out


def _is_earlier_export(out: Path, format: str) -> bool:
    if format == "gguf":
        from src.huggingface.gguf_file import MARKER

        if not out.is_file():
            return False
        with out.open("rb") as file:
            return MARKER.encode() in file.read(MARKER_BYTES)
    return out.is_dir() and (not any(out.iterdir()) or (out / MARKERS[format]).exists())


def main(argv: list[str]) -> int:
    return run_command("export", ExportConfig, export, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
