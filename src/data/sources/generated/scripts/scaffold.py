"""The parts of every script around its task: usage, messages, option parser and main."""

from src.data.sources.generated.grammar import make_odds
from src.data.sources.generated.scripts.optional_sections import CONFIRM, OPTIONAL_SECTIONS, RUN
from src.data.sources.generated.scripts.script import OptionalSection, Script, Setting, Task

NUMBERS = ("N", "DAYS", "SECONDS", "PERCENT", "COUNT", "MB", "LINES", "PORT")
"""Labels of option values that must be numbers."""
MAX_ROWS = 9
VALUES = {
    "N": "«x=DIGIT»",
    "DAYS": "«x=MINUTE»",
    "SECONDS": "«x=MINUTE»",
    "PERCENT": "«x=PERCENT»",
    "COUNT": "«x=DIGIT»",
    "PORT": "«x=PORT»",
    "DATE": "«x=YEAR»-«x2=MONTH»-«x3=DAY»",
    "DIR": "«x=BASE»/«x2=AREA»",
    "FILE": "/«x=ROOTDIR»/«x2=AREA»«x3=DIGIT».«x4=EXTENSION»",
    "GLOB": "'*.«x=EXTENSION»'",
    "CHAR": "';'",
    "HOST": "«x=HOSTN»",
    "EXT": "«x=EXTENSION»",
    "KEY": "«x=CONFIGKEY»",
    "BRANCH": "«x=BRANCH»",
}
"""Example values of options, by label."""

_PATH = "«o=BASE»/«o2=AREA»"
OPERANDS = {
    "SOURCE": _PATH,
    "DIR": _PATH + "/«o3=FIRST»",
    "FILE": "«o=AREA»-«o2=YEAR»«o3=MONTH».«o4=EXTENSION»",
    "LOGFILE": "/var/log/«o=SERVICE»«|.1|.2|.3»",
    "LIST": "«o=AREA»-«o2=TEAM».txt",
    "ACTION": "«start|stop|restart»",
    "COMMAND": "«show|add|drop»",
    "BUILD": "«o=BASE»/builds/«o2=DIGIT»«o3=DIGIT»«o4=DIGIT»«o5=DIGIT»",
    "REPO": "~«o=FIRST»/«o2=AREA»",
}
"""Example operands, by label."""


def define_basics(script: Script, task: Task, options: list[Setting]) -> None:
    """Define usage and the functions that print messages."""
    script.write_template("\n")
    script.name("usage", ("usage", "show_usage", "print_help", "show_help"), "", "() {\n")
    script.write_code("  cat <<«eof=EOF»\n")
    script.write_template("$«PROGRAM» $«VERSION»\n\nUsage: $«PROGRAM»«options»\n\nOptions:\n")
    width = max(len(_flags(script, option)) for option in options) + 2
    for option in options:
        default = f" (default: $«{option.slot}»)\n" if option.argument else "\n"
        script.write_template("  " + _flags(script, option).ljust(width) + option.help + default)
    script.write_template("  " + "-h".ljust(width) + "«show this help|print this text|show this help and exit»\n")
    _write_examples(script, task, options)
    if task.items:
        script.write_template(f"\n«Known|Built in|At present»: ${{«{task.items.slot}»[*]}}\n")
    script.write_template("«eof»\n}\n")
    flags = {option.slot for option in options}
    script.write_template("\n")
    script.name(
        "log", ("log", "info", "say", "note", "message", "status", "report", "tell", "msg", "inform"), "", "() {\n"
    )
    if "quiet" in flags:
        script.write_code("  [[ $«quiet» == «on» ]] && return 0\n")
    target = ' | tee -a "$«log_file»"\n' if "log_file" in flags else "\n"
    script.pick_code(
        f"  printf '%s %s\\n' \"$(date '+%F %T')\" \"$*\"{target}",
        f'  echo "$«PROGRAM»: $*"{target}',
        f'  printf \'[%s] %s\\n\' "$(date +%H:%M:%S)" "$*"{target}',
        f'  echo "[$(date +%T)] $«PROGRAM» $*"{target}',
    )
    script.write_template("}\n\n")
    script.name("die", ("die", "fail", "abort", "fatal", "bail_out", "quit", "give_up", "stop"), "", "() {\n")
    bodies = (
        '  echo "$«PROGRAM»: $*" >&2\n  exit «status=STATUS»\n',
        '  printf \'%s: error: %s\\n\' "$«PROGRAM»" "$*" >&2\n  exit «status=STATUS»\n',
        '  «log» "ERROR: $*" >&2\n  exit «status=STATUS»\n',
    )
    script.pick_code(*(bodies[:2] if "quiet" in flags else bodies))
    script.write_template("}\n")
    script.bind("run", "")
    if "force" in flags:
        script.define(CONFIRM)
    if "dry_run" in flags:
        script.define(RUN)
        script.bind("run", script.slots["run_name"] + " ")


def _write_examples(script: Script, task: Task, options: list[Setting]) -> None:
    """Write example command lines with one option each."""
    script.write_template("\n«Examples|For example|Try|Typical calls»:\n")
    long = script.slots["style"] == "long"
    for option in options:
        flag = f"--{option.long}" if long else f"-{option.letter}"
        value = " " + VALUES.get(option.argument, "«x=AREA»") if option.argument else ""
        operand = " " + OPERANDS[task.operand_label] if task.operand_label else ""
        script.write_template(f"  $«PROGRAM» {flag}{value}{operand}\n")


def _flags(script: Script, option: Setting) -> str:
    flag = f"-{option.letter}" + (f", --{option.long}" if script.slots["style"] == "long" else "")
    return f"{flag} {option.argument}" if option.argument else flag


def define_optional_sections(script: Script, task: Task, options: list[Setting]) -> list[OptionalSection]:
    """Define optional sections, up to the line before the functions of the task; return the sections."""
    chosen: list[OptionalSection] = []
    lines = [f'  «log» "{option.long}: $«{option.slot}»"' for option in options]
    script.bind("settings_lines", script.fill(script.layout("\n".join(lines))))
    while True:
        remaining = [
            section
            for section in OPTIONAL_SECTIONS
            if section not in chosen and not (task.has_trap and section.has_trap)
        ]
        heads = [f"\n# {section.function.comment}\n" for section in remaining]
        enough = 0.1 + 0.1 * len(chosen) if script.long else 5.0 + 6.0 * len(chosen)
        weights = (*(4.0 if section.has_rows else 0.7 for section in remaining), enough)
        index = script.pick(*heads, "\n# ---- «the work|what it does|the task itself|steps» ", odds=make_odds(weights))
        if index == len(heads):
            script.write_template("----\n")
            return chosen
        section = remaining[index]
        chosen.append(section)
        script.write_code(section.function.before)
        if section.has_rows:
            _write_table(script)
        script.body(section.function)


def _write_table(script: Script) -> None:
    """Define a function that prints machines and their owners; main looks one of them up."""
    script.write_code("«table=TABLEFN»() {\n  cat <<'«rows=EOF-eof»'\n")
    hosts: list[str] = []
    owners: list[str] = []
    end = script.slots["rows"] + "\n}\n\n"
    while len(hosts) < MAX_ROWS:
        free = [host for host in script.lexicons["HOSTN"].forms if host not in hosts]
        texts = [f"{host} " for host in free] + [end] * (len(hosts) > 2)
        weights = [1.0] * len(free) + [len(free) / 8] * (len(hosts) > 2)
        index = script.writer.pick(texts, make_odds(tuple(weights)))
        if index == len(free):
            break
        hosts.append(free[index])
        script.write_template("«row_port=PORT» «row_first=FIRST».«row_last=LAST»\n")
        owners.append(script.fill("«row_first».«row_last»"))
    else:
        script.write_template(end)
    script.owners = dict(zip(hosts, owners, strict=True))


def write_parser(script: Script, task: Task, options: list[Setting]) -> None:
    """Define the function that reads the command line: getopts for short options, a loop for long ones."""
    script.write_template("\n")
    script.name("parse", ("parse_options", "parse_arguments", "parse_args", "read_options"), "", "() {\n")
    (_parse_short if script.slots["style"] == "short" else _parse_long)(script, options)
    if task.operand:
        script.write_code(f"  «{task.operand}»=${{1:-}}\n  [[ -n $«{task.operand}» ]] || «die» ")
        script.write_template(
            f'"«no {task.operand_label} given|missing {task.operand_label}|{task.operand_label} is required»"\n'
        )
    for option in options:
        if option.argument in NUMBERS:
            script.write_code(f"  [[ $«{option.slot}» =~ ^[0-9]+$ ]] || «die» ")
            script.write_template('"«not a number|invalid number|expected a number»: ' + f'$«{option.slot}»"\n')
    script.write_template("}\n")


def _parse_short(script: Script, options: list[Setting]) -> None:
    letters = "".join(option.letter + ":" * bool(option.argument) for option in options)
    script.write_code("  local «opt=OPT»\n")
    script.write_code(f'  while getopts "{letters}h" «opt»; do\n    case $«opt» in\n')
    for option in options:
        value = "$OPTARG" if option.argument else "«on»"
        script.write_code(f"      {option.letter}) «{option.slot}»={value} ;;\n")
    script.write_code("      h) «usage» && exit 0 ;;\n      *) «usage» >&2 && exit 2 ;;\n")
    script.write_code("    esac\n  done\n  shift $((OPTIND - 1))\n")


def _parse_long(script: Script, options: list[Setting]) -> None:
    script.write_code("  while [[ $# -gt 0 ]]; do\n    case $1 in\n")
    for option in options:
        value = f"${{2:?{option.argument} is missing}} && shift" if option.argument else "«on»"
        script.write_code(f"      -{option.letter} | --{option.long}) «{option.slot}»={value} ;;\n")
    script.write_code("      -h | --help) «usage» && exit 0 ;;\n")
    script.write_code('      -*) «die» "«unknown option|no such option|bad option»: $1" ;;\n      *) break ;;\n')
    script.write_code("    esac\n    shift\n  done\n")


def write_main(script: Script, task: Task, options: list[Setting], sections: list[OptionalSection]) -> None:
    """Define main, which calls the functions, and call it."""
    script.write_code('\nmain() {\n  «parse» "$@"\n')
    if any(option.slot == "verbose" for option in options):
        script.write_code("  if [[ $«verbose» == «on» ]]; then\n    set -x\n  fi\n")
    if any(option.slot == "force" for option in options):
        script.write_code('  «confirm» "«Continue|Go on|Really start|Proceed»?"\n')
    script.bind("tools", task.tools)
    for section in sections:
        if not section.is_late:
            script.write_code(section.call)
    script.write_code(task.main.strip("\n") + "\n")
    for section in sections:
        if section.is_late:
            script.write_code(section.call)
        if section.has_rows:
            script.write_code('  «log» "«ask|owner|contact»: $(«owner» ')
            script.draw("machine", list(script.owners), after=')"')
            script.write_template("  # «now|today|at present» ")
            script.writer.recall(script.owners[script.slots["machine"]])
            script.write_template("\n")
    script.write_template('}\n\nmain "$@"\n')
