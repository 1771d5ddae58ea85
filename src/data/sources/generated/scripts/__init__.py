"""Bash scripts: a header that lists the options, settings, functions that use them, and main, which calls the functions.

They are valid in bash 3.2 (the version of macOS) and pass shellcheck, but are meant as text, not to be run.
"""

from src.data.sources.generated.grammar import Writer, make_odds
from src.data.sources.generated.scripts.header import write_header, write_settings
from src.data.sources.generated.scripts.scaffold import (
    define_basics,
    define_optional_sections,
    write_main,
    write_parser,
)
from src.data.sources.generated.scripts.script import Script, Task
from src.data.sources.generated.scripts.tasks_data import DATA_TASKS
from src.data.sources.generated.scripts.tasks_files import FILE_TASKS
from src.data.sources.generated.scripts.tasks_system import SYSTEM_TASKS

TASKS: dict[str, Task] = {**FILE_TASKS, **DATA_TASKS, **SYSTEM_TASKS}
_NAMES = [(kind, name) for kind, task in TASKS.items() for name in task.names.split()]
_NAME_ODDS = make_odds((1.0,) * len(_NAMES))


def write_script(writer: Writer) -> str:
    """Write one script and return the name of its task."""
    script = Script(writer)
    script.has_wide_indent = script.pick("#!/usr/bin/env bash\n", "#!/bin/bash\n") == 1
    script.write_template("#\n# ")
    kind, name = _NAMES[script.pick(*(f"{name} - " for _, name in _NAMES), odds=_NAME_ODDS)]
    task = TASKS[kind]
    script.bind("program", name)
    script.drawn.add("program")
    options = write_header(script, task)
    write_settings(script, task, options)
    define_basics(script, task, options)
    sections = define_optional_sections(script, task, options)
    for function in task.functions:
        script.define(function)
    write_parser(script, task, options)
    write_main(script, task, options, sections)
    return kind
