"""Render the data card in Markdown from the manifest: contents, origins, and what was left out."""

from collections.abc import Iterable
from typing import Any

from src.data.document import GENERATED, format_size
from src.runtime.log import replace_control_chars

MAX_TABLE_ROWS = 60
NEAR_COLUMNS = ("where", "held-out: where", "begins", "held-out: begins")


def render_data_card(manifest: dict[str, Any]) -> str:
    """Return the data card of prepared data."""
    settings, tokenizer = manifest["settings"], manifest["tokenizer"]
    data = settings["data"]
    trained = tokenizer["trained_on"]
    made = (
        "byte-level BPE, trained on " + " and ".join(f"{size:,} bytes of {name}" for name, size in trained.items())
        if trained
        else "one for each character of the text"
        if settings["tokenizer"].get("kind") == "characters"
        else "external, not trained on this text"
    )
    lines = [
        f"# Data: {manifest['name']}",
        "",
        f"Fingerprint `{manifest['fingerprint']}`; written by `python -m src.prepare` "
        f"({', '.join(f'{name} {version}' for name, version in manifest['versions'].items())}).",
        "",
        f"- Split by {data.get('split', 'group')}: {data['val_fraction']:.0%} validation, "
        f"{data['test_fraction']:.0%} test; seed {data['seed']}.",
        f"- Tokenizer: {tokenizer['vocab_size']:,} tokens, {made}; `{tokenizer['eot']}` (id {tokenizer['eot_id']}) "
        "is before and after each document.",
        "",
    ]
    for name, corpus in manifest["corpora"].items():
        lines += [
            *_corpus_section(name, corpus, data[name], corpus["split"] != data.get("split", "group")),
            *_tokenizer_section(tokenizer.get("compared", {}).get(name)),
        ]
    files = manifest["files"].items()
    lines += [
        "## Files",
        "",
        *_markdown_table(
            ("file", "bytes", "sha256"),
            ((f"`{name}`", f"{entry['bytes']:,}", f"`{entry['sha256']}`") for name, entry in files),
        ),
    ]
    return "\n".join(lines) + "\n"


def _corpus_section(name: str, corpus: dict[str, Any], settings: dict[str, Any], is_cut: bool) -> list[str]:
    """Describe one corpus. is_cut: whether it is split by position although the settings say by group."""
    hygiene = settings["hygiene"] if name == "code" and settings["source"] not in GENERATED else {}
    flat = {**settings, "hygiene": None, **{f"hygiene.{key}": value for key, value in hygiene.items()}}
    used = {key: value for key, value in flat.items() if value not in (None, [], {}, "")}
    counts = ("groups", "documents", "bytes", "tokens")
    head = ("split", *counts, "bytes per token", "tokens per word", "floor, bits per byte")
    rows = [
        (
            split,
            *(f"{entry[key]:,}" for key in counts),
            f"{entry['bytes_per_token']:.3f}",
            "" if entry["tokens_per_word"] is None else f"{entry['tokens_per_word']:.3f}",
            "" if entry["floor_bits_per_byte"] is None else f"{entry['floor_bits_per_byte']:.4f}",
        )
        for split, entry in corpus["splits"].items()
    ]
    lines = [
        f"## {name.capitalize()}",
        "",
        "; ".join(f"`{key}`: {value}" for key, value in used.items()),
        "",
        *(["Split by position: it has too few documents to hold out whole ones.", ""] if is_cut else []),
        *_markdown_table(head, rows),
        *_dropped_section("Left out", "documents", corpus["dropped"], corpus["left_out"]),
        *_dropped_section(
            "Passed over",
            "files",
            {reason: entry["files"] for reason, entry in corpus["passed_over"].items()},
            corpus["passed_over"],
        ),
        *_counts_section("Replaced by placeholders", "kind", corpus["replaced"], "times"),
        *_counts_section("Licenses", "license", corpus["licences"]),
        *_near_duplicates_section(corpus["near_duplicates"]),
    ]
    if groups := corpus["groups"]:
        lines += ["### Groups", ""]
        cells = (
            (
                group,
                entry["split"],
                f"{entry['documents']:,}",
                f"{entry['bytes']:,}",
                ", ".join(entry["licences"]),
                entry.get("revision", ""),
            )
            for group, entry in groups.items()
        )
        lines += _markdown_table(("group", "split", "documents", "bytes", "licences", "revision"), cells)
    return lines


def _dropped_section(title: str, what: str, counts: dict[str, int], details: dict[str, dict[str, Any]]) -> list[str]:
    """Describe what was left out, with sizes and first examples where they are known."""
    rows = []
    for reason, count in counts.items():
        entry = details.get(reason, {"bytes": 0, "first": []})
        size = format_size(entry["bytes"]) if entry["bytes"] else ""
        rows.append((reason, f"{count:,}", size, ", ".join(entry["first"])))
    return _table_section(title, ("reason", what, "size", "such as"), rows)


def _near_duplicates_section(near: dict[str, Any] | None) -> list[str]:
    """Describe near duplicates across the splits."""
    lines = ["### Near duplicates across splits", ""]
    if near is None:
        return [*lines, "Not searched.", ""]
    became = "dropped from training" if near["dropped"] else "kept"
    lines += [
        f"{near['found']:,} training documents have a Jaccard similarity of word 5-grams of {near['jaccard']} or "
        f"more with one of the {near['held_out']:,} held-out documents; they were {became}.",
        "",
    ]
    rows = (
        (
            example["train"],
            *next((split, example[split]) for split in ("val", "test") if split in example),
            str(example["jaccard"]),
            *example["where"],
            *example["excerpts"],
        )
        for example in near["examples"]
    )
    return lines + (
        _markdown_table(("training document", "split", "held-out document", "Jaccard", *NEAR_COLUMNS), rows)
        if near["examples"]
        else []
    )


def _tokenizer_section(compared: dict[str, Any] | None) -> list[str]:
    """Compare with another tokenizer on held-out text."""
    if compared is None:
        return []
    names = {"this": "this", "other": "compared"}
    rows = (
        (title, *(f"{compared[key][rate]:.3f}" for rate in ("bytes_per_token", "tokens_per_word")))
        for key, title in names.items()
    )
    return [
        f"### Tokenizers on {compared['bytes']:,} bytes of validation text",
        "",
        *_markdown_table(("tokenizer", "bytes per token", "tokens per word"), rows),
    ]


def _counts_section(title: str, what: str, counts: dict[str, int], of: str = "documents") -> list[str]:
    return _table_section(title, (what, of), [(key, f"{n:,}") for key, n in counts.items()])


def _table_section(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"### {title}", "", *(_markdown_table(head, rows) if rows else ["Nothing.", ""])]


def _markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Format a table, cut after `MAX_TABLE_ROWS`; cells hold foreign text, so Markdown in them is escaped."""
    head = list(head)
    rows = [[cell if cell.startswith("`") else _escape_markdown(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows[:MAX_TABLE_ROWS])]
    more = [f"… and {len(rows) - MAX_TABLE_ROWS:,} more in `manifest.json`."] if len(rows) > MAX_TABLE_ROWS else []
    return [*lines, "", *more, *([""] if more else [])]


def _escape_markdown(cell: str) -> str:
    return "".join(
        f"\\{char}" if char in r"\`*_{}[]<>()#+!|~" else char for char in replace_control_chars(" ".join(cell.split()))
    )
