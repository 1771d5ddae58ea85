"""`python -m src.generate run=DIR prompt='#!/bin/bash'`: stream text from a trained model."""

import sys
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.next_command import export_command, print_next
from src.config.checks import check_settings
from src.config.schema import GenerateConfig, UserError
from src.runtime.log import replace_control_chars

RAW = ("run", "prompt", "prompt_file")
"""Keys whose values bypass Hydra's grammar: `#!/bin/bash`, `a, b`, `f() {`, `${HOME}` and `~/x` stay unchanged."""


def generate_text(config: GenerateConfig) -> int:
    """Stream the prompt and its continuation to standard output."""
    check_settings(config)
    prompt = read_prompt(config)

    from src.huggingface import is_exportable
    from src.runs.open_model import open_text_model

    model = open_text_model(config.run, config.device, config.threads)
    tokens = model.read(prompt)
    model.check_length(tokens, config.max_new_tokens)
    display = replace_control_chars if sys.stdout.isatty() else str  # files and pipes get the unchanged text
    sys.stdout.write(display(prompt))
    for piece in model.stream(tokens, config, cache=config.cache):
        sys.stdout.write(display(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()  # before the lines on standard error
    if is_exportable(model.spec):
        print_next([export_command(config.run, model.run.name)])
    return 0


def read_prompt(config: GenerateConfig) -> str:
    """Read the prompt unchanged from `prompt`, a file or standard input."""
    if config.prompt is not None and config.prompt_file is not None:
        raise UserError("prompt_file: give prompt or prompt_file, not both")
    if config.prompt is not None:
        if any("\ud800" <= letter <= "\udfff" for letter in config.prompt):
            raise UserError("prompt: is not valid UTF-8; prompts are text in that encoding")
        return config.prompt
    if config.prompt_file is not None:
        path = Path(config.prompt_file).expanduser()
        try:
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompt_file={config.prompt_file}: cannot be read ({error})") from None
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"prompt: standard input is not valid UTF-8 ({error})") from None


def main(argv: list[str]) -> int:
    return run_command("generate", GenerateConfig, generate_text, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
