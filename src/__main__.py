"""`python -m src`: what commands there are, by the first line of each one's YAML."""

import sys

from src.config import CONF

COMMANDS = ("prepare", "train", "tune", "report", "evaluate", "generate", "export", "estimate", "benchmark", "doctor")
"""In the order in which they are met."""


def main() -> int:
    """Print a line or two for each command; status 2, since none was chosen."""
    print("error: choose a command; --help behind it lists its settings\n", file=sys.stderr)
    for command in COMMANDS:
        first = (CONF / f"{command}.yaml").read_text(encoding="utf-8").splitlines()[0]
        about, _, example = first.removeprefix("# ").partition(":  ")
        print(f"{example}\n    {about}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
