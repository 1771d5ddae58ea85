"""`python -m src.prepare data=PATH`: pack text into tokens.

`mode=inspect` with the same settings shows the content of prepared data.
"""

import sys
from collections import Counter
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.command_line import format_argument, quote_paths
from src.cli.data_path import expand_data_path
from src.cli.data_validation import check_data
from src.cli.next_command import command_of, print_next
from src.cli.validation import check_writable
from src.config.checks import check_settings
from src.config.formatting import count_of, show_bytes, show_time
from src.config.schema import PrepareConfig, UserError
from src.runtime.host import free_bytes
from src.runtime.log import replace_control_chars

SHOWN_EXAMPLES = 3
WORK_FACTOR = 2
"""Bytes on disk for each byte of text: its documents and its tokens."""


def prepare(config: PrepareConfig) -> int:
    """Prepare the data and print a summary."""
    from src.data.preparation.prepare import find_prepared, prepare_data

    check_settings(config)
    check_data(config.data, config.tokenizer)
    if config.data.is_task:
        raise UserError(f"data={config.data.name}: a task is generated while it trains; there is nothing to prepare")
    root = Path(config.output_root).expanduser()
    if config.mode == "inspect":
        from src.data.preparation.inspection import inspect_data

        if (found := find_prepared(config.data, config.tokenizer, root)) is None:
            raise UserError(f"mode=inspect: data={config.data.name} is not prepared in {root}; leave mode out to do it")
        inspect_data(found, config.documents, sys.stdout)
        return 0
    check_writable(config.output_root)
    if config.dry_run:
        print("\n".join(describe_dry_run(config, root)))
        return 0
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
    text = format_argument("data.dir", str(data.folder))
    comparison = ("-m", text, "architecture=dense,mamba,moe,hybrid", "seed=0,1,2", "dry_run=true")
    print_next([command_of("train", text), command_of("train", *comparison)])
    return 0


def describe_dry_run(config: PrepareConfig, root: Path) -> list[str]:
    """Describe what would be read, and where it would be written. Raises: UserError as the command itself."""
    from src.data.dataset import prepared_folder
    from src.data.preparation.prepare import find_prepared, measured_speed
    from src.data.sources.local import list_local_files
    from src.data.sources.repository_list import load_repositories
    from src.data.sources.token_shards import SOURCE as DATATROVE
    from src.data.sources.token_shards import list_shards
    from src.data.tokenizer.external import check_tokenizer

    data, is_done = config.data, find_prepared(config.data, config.tokenizer, root) is not None
    check_tokenizer(config.tokenizer)
    lines, known_bytes, is_known = [], 0, True
    for name, corpus in data.corpora.items():
        n_bytes = corpus.max_bytes
        if corpus.source == "local":
            files = list_local_files(corpus, name, Counter())
            n_bytes = min(sum(file.stat().st_size for file in files), n_bytes or sys.maxsize)
            source = f"{count_of(len(files), 'local file')}"
        elif corpus.source == DATATROVE:
            shards = list_shards(corpus, name)
            n_bytes, source = (
                sum(shard.stat().st_size for shard in shards),
                f"{count_of(len(shards), 'shard')} of tokens",
            )
        elif corpus.source == "git":
            n = len(load_repositories(corpus, name))
            source = f"{n:,} {'repository' if n == 1 else 'repositories'}, fetched once into {root / 'sources'}"
        else:
            source = f"{corpus.source}{f' {corpus.repo}' if corpus.source == 'hub' else ''}"
        known_bytes, is_known = known_bytes + (n_bytes or 0), is_known and bool(n_bytes)
        lines.append(f"{name}: {source}; {f'up to {show_bytes(n_bytes)} of text' if n_bytes else 'of unknown size'}")
    tokenizer = config.tokenizer.path or f"{config.tokenizer.kind}, up to {config.tokenizer.vocab_size:,} tokens"
    lines.append(f"tokenizer: {tokenizer}")
    folder = data.dir or prepared_folder(data, config.tokenizer, root)
    verb = "would be prepared again" if config.rerun else "is prepared already"
    lines.append(f"Data: {folder} {verb if is_done else 'would be written'}")
    if not is_done or config.rerun:
        lines.append(f"Time: {_describe_time(known_bytes if is_known else None, measured_speed(root))}")
    free = free_bytes(root)
    if WORK_FACTOR * known_bytes > free:
        lines.append(
            f"Missing: disk for the work of about {show_bytes(WORK_FACTOR * known_bytes)}, {show_bytes(free)} are free"
        )
    return [*lines, "Nothing was fetched or written."]


def _describe_time(n_bytes: int | None, bytes_per_second: float | None) -> str:
    if n_bytes is None:
        return "not known, since the size of the text is not"
    if bytes_per_second is None:
        return "not known before text was prepared here once"
    return f"at most about {show_time(n_bytes / bytes_per_second)} after fetching, by the speed of the last preparation"


def main(argv: list[str]) -> int:
    return run_command("prepare", PrepareConfig, prepare, expand_data_path(quote_paths(argv), has_stages=False))


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
