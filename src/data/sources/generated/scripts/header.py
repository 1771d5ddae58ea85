"""The part above the functions of a script: header, history, constants and the defaults of the settings."""

from src.data.sources.generated.grammar import make_odds
from src.data.sources.generated.scripts.optional_sections import GENERIC_OPTIONS
from src.data.sources.generated.scripts.script import Script, Setting, Task

MAX_ITEMS = 7
MAX_OPTIONS = 4
USAGE = "#\n# Usage: «program»"
ALL_IN_ONE = "# «All in one file|Self-contained»: nothing is sourced.\n"
LENGTH_ODDS = make_odds((5.0, 1.0))
"""One script in six is long: it has most of the optional sections."""
CHANGES = (
    "works on «host=HOST»«number=MEDIUM» «too|again|without root»\n",
    "faster with more than «large=LARGE» files\n",
    "no longer stops when «service=SERVICE» is «down|busy|restarted»\n",
    "first version, for the «team2=TEAM» team\n",
    "quotes around «all paths|names with spaces|every variable»\n",
    "uses «tool1=TOOL» instead of «tool2=TOOL-tool1»\n",
    "asked for by «first2=FIRST» «last2=LAST»: clearer messages\n",
)
"""Lines of the history in the header."""


def write_header(script: Script, task: Task) -> list[Setting]:
    """Write the comment at the top, from the purpose on, and return the options that its usage line draws."""
    script.write_template(task.purpose + "\n")
    script.long = script.pick(USAGE, ALL_IN_ONE + USAGE, odds=LENGTH_ODDS) == 1
    options: list[Setting] = []
    usage: list[str] = []
    possible = (
        *task.settings,
        *(setting for setting in GENERIC_OPTIONS if task.has_dry_run or setting.slot != "dry_run"),
    )
    end = f" {task.operand_label}\n" if task.operand_label else "\n"
    while len(options) < MAX_OPTIONS:
        letters = {option.letter for option in options}
        candidates = [setting for setting in possible if setting.letter not in letters]
        styles = (script.slots["style"],) if options else ("short", "long")
        texts = [_usage(candidate, style) for style in styles for candidate in candidates]
        weights = [(rank % len(candidates) + 1) ** -0.3 for rank in range(len(texts))]
        if options:
            texts.append(end)
            weights.append(sum(weights) * len(options) / 2.5)
        index = script.writer.pick(texts, make_odds(tuple(weights)))
        usage.append(texts[index])
        if texts[index] == end:
            break
        script.bind("style", styles[index // len(candidates)])
        options.append(candidates[index % len(candidates)])
    else:
        script.write_template(end)
        usage.append(end)
    script.bind("options", "".join(usage).rstrip("\n"))
    _write_origin(script)
    _write_history(script, options)
    script.pick("set -euo pipefail\n", "set -eu\nset -o pipefail\n", "set -o errexit -o nounset -o pipefail\n")
    return options


def _usage(option: Setting, style: str) -> str:
    flag = f"-{option.letter}" if style == "short" else f"--{option.long}"
    return f" [{flag} {option.argument}]" if option.argument else f" [{flag}]"


def _write_origin(script: Script) -> None:
    script.pick(
        "# Author: «first=FIRST».«last=LAST»@«domain=DOMAIN»\n",
        "#\n# «Written|Maintained|Kept» by the «team=TEAM» team«|, questions to «team»@example.com|, see the wiki»\n",
        "# Copyright «year=YEAR» «first=FIRST» «last=LAST»\n",
        "# Cron: «minute=MINUTE» «hour=HOUR» * * «weekday=WEEKDAY»\n",
    )
    script.write_template("# «Version|Release» «major=MAJOR».«minor=MINOR».«patch=MINOR»")


def _write_history(script: Script, options: list[Setting]) -> None:
    """Write the history of changes, some of them about the options; a blank line ends it."""
    years = list(reversed(script.lexicons["YEAR"].forms))
    script.write_template(", «y=YEAR»-«m=MONTH»-«d=DAY»\n")
    years = [year for year in years if year < script.slots["y"]]
    while years:
        texts = ["\n", *(f"# {year}-" for year in reversed(years))]
        index = script.writer.pick(texts, make_odds((0.4 * len(years), *(1.0 for _ in years))))
        if index == 0:
            return
        years = years[: len(years) - index]
        script.write_template("«m=MONTH»-«d=DAY» «who=FIRST»: ")
        script.pick_code(*CHANGES, *(f"option -{option.letter} «added|documented|fixed»\n" for option in options))
    script.write_template("\n")


def write_settings(script: Script, task: Task, options: list[Setting]) -> None:
    """Assign the constants and the default of every setting, whether it is an option or not."""
    script.name("PROGRAM", ("PROGRAM", "SCRIPT_NAME", "PROG", "ME"), "\nreadonly ", "=${0##*/}\n")
    script.name("VERSION", ("VERSION", "RELEASE"), "readonly ", "=«major».«minor».«patch»\n")
    if task.items:
        _write_items(script, task)
    script.write_template(
        "\n# «Defaults|Settings|Default values|Configuration»«, see usage|; options override them|»\n"
    )
    if task.operand:
        script.name(task.operand, task.operand_names.split(), "", '=""\n')
    for setting in (*task.settings, *(setting for setting in GENERIC_OPTIONS if setting in options)):
        script.name(setting.slot, setting.names.split(), "", "=")
        if setting.argument:
            script.write_template(setting.value + "\n")
            continue
        elif "flags" in script.slots:
            script.write_template("«off»")
        else:
            script.bind("flags", ("words", "numbers")[script.pick("false", "0")])
            script.bind("on", ("true", "1")[script.slots["flags"] == "numbers"])
            script.bind("off", ("false", "0")[script.slots["flags"] == "numbers"])
        script.write_template("\n")


def _write_items(script: Script, task: Task) -> None:
    items = task.items
    assert items
    script.write_template(f"\n# {items.comment}\n")
    script.name(items.slot, items.names.split(), "readonly ", "=(")
    words: list[str] = []
    remaining = list(script.lexicons[items.lexicon].forms)
    while len(words) < MAX_ITEMS:
        texts = [" " * bool(words) + word for word in remaining]
        weights = [(rank + 1) ** -0.5 for rank in range(len(texts))]
        if len(words) > 1:
            texts.append(")\n")
            weights.append(sum(weights) / 5)
        index = script.writer.pick(texts, make_odds(tuple(weights)))
        if index == len(remaining):
            break
        words.append(remaining.pop(index))
    else:
        script.write_template(")\n")
    script.bind(f"{items.slot}.words", ", ".join(words))
    script.bind(f"{items.slot}.pattern", " | ".join(words))
    script.bind(f"{items.slot}.first", words[0])
    script.bind(f"{items.slot}.last", words[-1])
