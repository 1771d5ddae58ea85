"""What a script is made of, and the writer that keeps its names: what is defined above is what is used below."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from src.data.sources.generated.grammar import Forms, Lexicon, TemplateWriter, WordDraw, Writer, make_odds
from src.data.sources.generated.scripts.lexicon import LEXICONS, VARIABLES


@dataclass(frozen=True)
class Setting:
    """A variable that is assigned at the top and may be exposed as an option."""

    slot: str
    names: str
    """Alternative variable names, the most likely first."""
    value: str
    """A template of the default; `off` makes it a flag."""
    letter: str
    long: str
    argument: str
    """Label of the option's value in the usage text; empty for a flag."""
    help: str
    """A template of the usage text."""


@dataclass(frozen=True)
class Function:
    """A function: alternative names, and templates of the comment above it, its body and the code before it."""

    slot: str
    names: str
    comment: str
    body: str
    before: str = ""


@dataclass(frozen=True)
class OptionalSection:
    """An optional function of a script, and its call in main."""

    function: Function
    call: str
    is_late: bool = False
    """Whether it is called after the work instead of before it."""
    has_rows: bool = False
    """Whether a table above it defines rows that it looks up."""

    @property
    def has_trap(self) -> bool:
        """Whether it sets a trap on exit; a script can have only one."""
        return "trap " in self.function.body


@dataclass(frozen=True)
class Items:
    """An array constant; its items are bound to `<slot>.words` and, as a case pattern, `<slot>.pattern`."""

    slot: str
    names: str
    lexicon: str
    comment: str


@dataclass(frozen=True)
class Task:
    """What a script does."""

    names: str
    """Alternative names of the script."""
    purpose: str
    settings: tuple[Setting, ...]
    functions: tuple[Function, ...]
    main: str
    tools: str
    """The commands that the task needs."""
    items: Items | None = None
    operand: str = ""
    """The slot of the variable for the operand, or an empty string."""
    operand_names: str = ""
    operand_label: str = ""

    @property
    def has_trap(self) -> bool:
        """Whether a function of the task sets a trap."""
        return any("trap " in function.body for function in self.functions)

    @property
    def has_dry_run(self) -> bool:
        """Whether the task runs commands through the function that implements a dry run."""
        return any("«run»" in body for body in (self.main, *(function.body for function in self.functions)))


REMARKS = (
    "# See ticket «key=TEAMKEY»-«d1=DIGIT»«d2=DIGIT»«d3=DIGIT»«d4=DIGIT».\n",
    "# Thanks to «helper=FIRST» «helper_last=LAST» for the «idea|patch|hint|review».\n",
    "# Tested with «tested=TOOL» «t1=DIGIT».«t2=DIGIT».«t3=DIGIT» on «h=HOST»«t4=DIGIT».\n",
    "# Takes about «took=MEDIUM» s for «amount=LARGE» «files|lines|entries».\n",
    "# Changed on «cy=YEAR»-«cm=MONTH»-«cd=DAY» by «cw=FIRST».\n",
    "# The «rt=TEAM» team «asked for|relies on|wrote|tests» this.\n",
)
"""Second lines of the comment above a function."""


class Script(TemplateWriter):
    """A template writer for bash: templates are indented by two spaces, and written in the script's own indent."""

    def __init__(self, writer: Writer):
        super().__init__(writer, LEXICONS | VARIABLES)
        self._global_names: set[str] = set()
        self._local_names: set[str] = set()
        self.has_wide_indent = False
        self.long = False
        self.owners: dict[str, str] = {}
        self.bind("on", "true")
        self.bind("off", "false")

    def layout(self, template: str) -> str:
        """Return a template in the script's indent."""
        return _widen(template) if self.has_wide_indent else template

    def write_code(self, template: str) -> None:
        """Write lines of code."""
        self.write_template(self.layout(template))

    def pick_code(self, *templates: str) -> int:
        """Draw one of several pieces of code."""
        return self.pick(*map(self.layout, templates))

    def name(self, slot: str, names: Sequence[str], before: str, after: str) -> None:
        """Draw the name of a global variable or a function at its first mention."""
        free = [name for name in names if name not in self._global_names]
        self._global_names.add(self.draw(slot, free, before, after))
        self._local_names.clear()

    def excluded(self, piece: WordDraw, lexicon: Lexicon) -> tuple[str, ...]:
        """Exclude the names of global variables and of other variables of the function."""
        taken = {self.slots[slot] for slot in piece.excluded}
        if piece.lexicon in VARIABLES:
            taken |= self._global_names | self._local_names
        elif not taken:
            return ()
        return tuple(word for word in lexicon.forms if word in taken)

    def bind(self, slot: str, value: str, forms: Forms | None = None) -> None:
        super().bind(slot, value, forms)
        self._local_names.add(value)

    def define(self, function: Function) -> None:
        """Write a function below a blank line and its comment."""
        self.write_code(f"\n# {function.comment}\n{function.before}")
        self.body(function)

    def body(self, function: Function) -> None:
        """Draw the name of a function, perhaps after a remark, and write its body."""
        names = [name for name in function.names.split() if name not in self._global_names]
        odds = make_odds((*((rank + 1) ** -0.25 for rank in range(len(names))), *(0.5 for _ in REMARKS)))
        index = self.pick(*(f"{name}() {{\n" for name in names), *REMARKS, odds=odds)
        if index >= len(names):
            index = self.pick(*(f"{name}() {{\n" for name in names))
        self.bind(function.slot, names[index])
        self.drawn.add(function.slot)
        self._global_names.add(names[index])
        self._local_names.clear()
        self.write_code(function.body.strip("\n") + "\n}\n")


@cache
def _widen(template: str) -> str:
    return re.sub(r"(?m)^((?:  )+)", lambda match: match[1] * 2, template)
