"""`python -m src.generate run=DIR prompt='#!/bin/bash'`: stream text from a trained model."""

import sys
from pathlib import Path

from src.cli.compose import check_has_text, run_cli, run_command
from src.cli.next_command import export_command, print_next
from src.config.checks import check_settings
from src.config.schema import GenerateConfig, RuntimeConfig, UserError
from src.runtime.log import replace_control_chars

RAW = ("run", "prompt", "prompt_file")
"""Keys whose values bypass Hydra's grammar: `#!/bin/bash`, `a, b`, `f() {`, `${HOME}` and `~/x` stay unchanged."""


def generate_text(config: GenerateConfig) -> int:
    """Stream the prompt and its continuation to standard output."""
    check_settings(config)
    prompt = read_prompt(config)

    from tokenizers.decoders import DecodeStream

    from src.data.tokenizer.bpe import encode, get_eot_id, load_tokenizer
    from src.huggingface import is_exportable
    from src.inference.generation import generate
    from src.model.build import build_model
    from src.runtime.device import open_device
    from src.training.checkpoint import find_checkpoint, load_weights

    try:
        info = find_checkpoint(Path(config.run).expanduser().resolve(), "best")
        check_has_text(info.folder.parents[2])
    except UserError as error:  # its message starts with the path
        raise UserError(f"run={error}") from None
    path = info.folder.parents[2] / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    eot_id = get_eot_id(tokenizer, path)
    tokens = [eot_id, *encode(tokenizer, prompt)]
    limit = info.spec.learned_positions
    if limit and len(tokens) + config.max_new_tokens > limit:
        raise UserError(
            f"max_new_tokens={config.max_new_tokens}: with the prompt's {len(tokens)} tokens, more than the {limit} "
            f"learned positions of this model; at most {max(0, limit - len(tokens))}"
        )
    device = open_device(RuntimeConfig("generate", config.device, "fp32", threads=config.threads))
    model = build_model(info.spec, seed=0)
    load_weights(info, model)
    model.to(device.kind)

    stream = DecodeStream(skip_special_tokens=True)
    display = replace_control_chars if sys.stdout.isatty() else str  # files and pipes get the unchanged text
    sys.stdout.write(display(prompt))
    for token in generate(model, tokens, config, stop=eot_id, cache=config.cache):
        sys.stdout.write(display(stream.step(tokenizer, token) or ""))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()  # before the lines on standard error
    if is_exportable(info.spec):
        print_next([export_command(config.run, info.folder.parents[2].name)])
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
