"""Write the tables of docs/SETTINGS.md from the descriptions in the schema: `python -m src.cli.settings_page`."""

from src.cli.compose import register_schema
from src.cli.help import defaults_of
from src.cli.settings_help import Default, by_section, show_value, title_of
from src.config import schema as schemas
from src.config.schema import ROOT, TrainConfig
from src.config.setting import Entry, entries_of

PAGE = ROOT / "docs" / "SETTINGS.md"
MARK = "<!-- `python -m src.cli.settings_page` writes everything below from src/config/schema and conf. -->\n"
COMMANDS = (
    "train demo estimate advise benchmark tune prepare generate chat serve evaluate report runs export validate doctor"
).split()
HEADER = ["| setting | meaning | type and unit | range or choices | default |", "|---|---|---|---|---|"]


def current_page() -> str:
    """Return the page: its manual text, and the current tables."""
    text, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return text + MARK + tables()


def tables() -> str:
    """Return the settings of train by section, and the further settings of each other command."""
    lines: list[str] = []
    train = entries_of(TrainConfig)
    register_schema(TrainConfig, "train")
    values = defaults_of(TrainConfig, "train")
    for command in COMMANDS:
        schema = getattr(schemas, f"{command.title()}Config")
        defaults = values if schema is TrainConfig else {}  # the YAML of other commands gives none of their own
        own = entries_of(schema)
        shared = {} if schema is TrainConfig else {key: entry for key, entry in own.items() if train.get(key) == entry}
        lines += ["", f"## Settings of {command}"]
        if shared:
            names = ", ".join(f"`{name}`" for name in dict.fromkeys(key.split(".")[0] for key in shared))
            lines += ["", f"The same as for train: {'all of them' if len(shared) == len(train) else names}."]
        for section, entries in by_section(entry for key, entry in own.items() if key not in shared).items():
            if section:
                lines += ["", f"### {section.replace('*', 'NAME')}", "", f"{title_of(schema, section)}."]
            lines += ["", *HEADER, *(row(entry, defaults.get(entry.key)) for entry in entries)]
    return "\n".join([*lines, ""])


def row(entry: Entry, default: Default | None) -> str:
    """Return the row of a setting."""
    value = show_value(default.value if default else entry.default)
    cells = [f"`{entry.key}`", entry.setting.meaning, entry.type_in_words, entry.allowed, f"`{value}`"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(current_page(), encoding="utf-8")
