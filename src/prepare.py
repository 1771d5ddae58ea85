"""`python -m src.prepare data=PATH`: pack text into tokens.

`mode=inspect` with the same settings shows the content of prepared data.
"""

import sys
from pathlib import Path

from src.cli.command_line import quote_paths
from src.cli.compose import run_cli, run_command
from src.cli.data_path import expand_data_path
from src.cli.validation import check_data, check_writable
from src.config.checks import check_settings
from src.config.schema import PrepareConfig, UserError
from src.runtime.log import replace_control_chars

SHOWN_EXAMPLES = 3


def prepare(config: PrepareConfig) -> int:
    """Prepare the data and print a summary."""
    from src.data.preparation.prepare import find_prepared, prepare_data

    check_settings(config)
    check_data(config.data, config.tokenizer)
    root = Path(config.output_root).expanduser()
    if config.mode == "inspect":
        from src.data.preparation.inspection import inspect_data

        if (found := find_prepared(config.data, config.tokenizer, root)) is None:
            raise UserError(f"mode=inspect: data={config.data.name} is not prepared in {root}; leave mode out to do it")
        inspect_data(found, config.documents, sys.stdout)
        return 0
    check_writable(config.output_root)
    data = prepare_data(config.data, config.tokenizer, root, config.rerun)
    for name, corpus in data.manifest["corpora"].items():
        splits = ", ".join(f"{split} {values['tokens']:,}" for split, values in corpus["splits"].items())
        print(f"{name}: {corpus['documents']:,} documents, {corpus['bytes']:,} bytes; tokens: {splits}")
        for example in (corpus["near_duplicates"] or {"examples": []})["examples"][:SHOWN_EXAMPLES]:
            train, held_out = list(example.values())[:2]
            train, held_out = map(replace_control_chars, example.get("where", [train, held_out]))
            print(f"  near duplicates (Jaccard {example['jaccard']}): {train} in train, {held_out} held out")
            for text in example.get("excerpts", []):
                print(f"    {replace_control_chars(text)}")
    print(f"Data: {data.folder}")
    return 0


def main(argv: list[str]) -> int:
    return run_command("prepare", PrepareConfig, prepare, expand_data_path(quote_paths(argv), has_stages=False))


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
