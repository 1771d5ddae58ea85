"""`python -m src.prepare data=local data.language.paths=[...] data.code.paths=[...]`: text to packed tokens."""

import sys
from pathlib import Path

from src.compose import guarded, run_command
from src.config import PrepareConfig
from src.overrides import quote_paths
from src.validation import check_data, check_writable


def prepare(config: PrepareConfig) -> int:
    """Prepare the data, and say what is in it."""
    from src.data.packing import prepare_data

    check_data(config.data, config.tokenizer)
    check_writable(config.output_root)
    data = prepare_data(config.data, config.tokenizer, Path(config.output_root).expanduser(), config.rerun)
    for name, corpus in data.manifest["corpora"].items():
        splits = ", ".join(f"{split} {values['tokens']:,}" for split, values in corpus["splits"].items())
        print(f"{name}: {corpus['documents']:,} documents, {corpus['bytes']:,} bytes; tokens: {splits}")
    print(f"Data: {data.folder}")
    return 0


def main(argv: list[str]) -> int:
    return run_command("prepare", PrepareConfig, prepare, quote_paths(argv))


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
