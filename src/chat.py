"""`python -m src.chat run=DIR`: try prompts in one session, with settings changed in place."""

import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from src.cli.command import run_cli, run_command
from src.config.checks import check_settings
from src.config.schema import ChatConfig, SamplingConfig, UserError
from src.runtime.log import replace_control_chars

if TYPE_CHECKING:
    from src.inference.text_model import TextModel

RAW = ("run",)
HELP = r"""A line is a text to continue; \n in it is a line break. Commands:
  /more                continue the last text
  /again               the last prompt with the next seed
  /history             the prompts of this session
  /temperature 0.5     change a setting, also /top_k, /max_new_tokens and /seed; without a value, show it
  /help  /quit"""
SETTINGS = {field.name: type(field.default) for field in fields(SamplingConfig)}


def chat(config: ChatConfig) -> int:
    """Read prompts until the end of input."""
    check_settings(config)

    from src.runs.open_model import open_text_model

    session = Session(open_text_model(config.run, config.device, config.threads), config)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  # arrow keys and earlier lines

        print("This model continues texts. /help lists the commands; Ctrl-D ends.")
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            return 0
        if line.strip() == "/quit":
            return 0
        try:
            session.answer(line)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print()  # ends this text, not the session


class Session:
    """The prompts so far, and the settings as they are now."""

    def __init__(self, model: "TextModel", settings: ChatConfig) -> None:
        self.model, self.settings = model, settings
        self.prompts: list[str] = []
        self.text = ""
        """The last prompt and what followed it."""

    def answer(self, line: str) -> None:
        """Run a command, or continue a text. Raises: UserError."""
        name, _, value = line.strip().removeprefix("/").partition(" ")
        if not line.startswith("/") or line.startswith("//"):
            if line:
                self.continue_text(line.removeprefix("/" if line.startswith("//") else "").replace(r"\n", "\n"))
        elif name == "help":
            print(HELP)
        elif name == "history":
            print("\n".join(repr(prompt)[1:-1] for prompt in self.prompts))
        elif name == "more":
            self.continue_text(self.text, is_new=False)
        elif name == "again":
            if not self.prompts:
                raise UserError("/again: there is no prompt yet")
            self.settings = replace(self.settings, seed=self.settings.seed + 1)
            self.continue_text(self.prompts[-1], is_new=False)
        elif name in SETTINGS:
            if value.strip():
                self.change(name, value.strip())
            print(f"{name} {getattr(self.settings, name):g}")
        else:
            raise UserError(f"/{name}: no such command; /help lists them, and //{name} begins a text")

    def change(self, name: str, value: str) -> None:
        """Change a setting. Raises: UserError, and the setting stays as it is."""
        try:
            changed = replace(self.settings, **{name: SETTINGS[name](value)})
        except ValueError:
            raise UserError(f"/{name} {value}: must be a number") from None
        check_settings(changed)
        self.settings = changed

    def continue_text(self, prompt: str, *, is_new: bool = True) -> None:
        """Stream a prompt and its continuation. Raises: UserError if it is too long."""
        tokens = self.model.read(prompt)
        self.model.check_length(tokens, self.settings.max_new_tokens)
        if is_new:
            self.prompts.append(prompt)
        self.text = prompt
        display = replace_control_chars if sys.stdout.isatty() else str
        sys.stdout.write(display(prompt))
        for piece in self.model.stream(tokens, self.settings):
            self.text += piece
            sys.stdout.write(display(piece))
            sys.stdout.flush()
        print(flush=True)


def main(argv: list[str]) -> int:
    return run_command("chat", ChatConfig, chat, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
