"""Items of `bash_syntax` (minimal pairs that `bash -n` tells apart) and `bash_idioms` (the usual continuation)."""

from src.evaluation.lm_eval_tasks.templates import Choice, Pair, Words, choices, minimal_pairs

N_ITEMS, SEED = 300, 1
HEAD = "#!/bin/bash\n"
WORDS: Words = {
    "var": ("file", "line", "name", "path", "dir", "host", "user", "item", "entry", "arg", "log", "key", "src", "dest"),
    "file": (
        "input.txt", "config.txt", "users.txt", "hosts.txt", "list.txt", "names.txt", "data.csv", "output.log",
        "error.log", "access.log", "todo.txt", "notes.txt",
    ),
    "ext": ("txt", "log", "csv", "sh", "conf", "json", "md", "bak"),
    "dir": ("/tmp/backup", "/var/log", "/opt/app", "/etc", "/usr/local", "/home/user", "build", "dist", "src", "logs"),
    "tool": ("git", "curl", "docker", "python3", "make", "gcc", "tar", "rsync", "jq", "wget", "node", "ssh"),
    "function": ("usage", "main", "cleanup", "backup", "log", "check", "install", "die", "build", "start", "stop"),
    "word": ("error", "warning", "failed", "root", "TODO", "main", "test", "admin", "start", "done"),
    "number": ("1", "2", "3", "5", "10", "20", "60", "100"),
}  # fmt: skip

SYNTAX = (
    Pair("if", 'if [ -f "<dir>/<file>" ]; <?>\n    echo "<file> exists"\nfi\n', "then", "do"),
    Pair("if", 'if [ ! -d "$<var>" ]; then\n    mkdir -p "$<var>"\n<?>\necho "<word>"\n', "fi", "done"),
    Pair("if", 'if grep -q "<word>" <file>; then\n    echo "found"\n<?>\n    exit 1\nfi\n', "else", "do"),
    Pair(
        "if", 'if [ "$1" = "<word>" ]; then\n    <tool>\nelif [ -n "$2" ]; <?>\n    exit <number>\nfi\n', "then", "do"
    ),
    Pair("for", 'for <var> in *.<ext>; <?>\n    echo "$<var>"\ndone\n', "do", "then"),
    Pair("for", 'for <var> in "$@"; do\n    <tool> "$<var>"\n<?>\necho "<word>"\n', "done", "fi"),
    Pair("while", 'while read -r <var>; <?>\n    echo "$<var>"\ndone < <file>\n', "do", "then"),
    Pair("while", 'while [ "$#" -gt 0 ]; do\n    echo "<word> $1"\n    shift\n<?>\nexit <number>\n', "done", "fi"),
    Pair("until", 'until <tool> "<file>"; <?>\n    sleep <number>\ndone\n', "do", "then"),
    Pair(
        "case",
        'case "$1" <?>\n    <word>)\n        <tool>\n        ;;\n    *)\n        exit <number>\n        ;;\nesac\n',
        "in",
        "do",
    ),
    Pair(
        "case",
        'case "$<var>" in\n    <word>)\n        <tool>\n        ;;\n    *)\n        exit 1\n        ;;\n<?>\n',
        "esac",
        "fi",
    ),
    Pair(
        "case",
        'case "$1" in\n    <word>)\n        <function>\n        <?>\n    *)\n        exit <number>\n        ;;\nesac\n',
        ";;",
        "fi",
    ),
    Pair("function", '<function>() <?>\n    echo "<word> $1"\n}\n', "{", "("),
    Pair("function", '<function>() {\n    <tool> "$1"\n    return <number>\n<?>\n', "}", "fi"),
    Pair("quote", 'echo "<word>: $<var><?>\nexit <number>\n', '"', "'"),
    Pair("quote", "grep '<word><?> <file>\n<tool>\n", "'", '"'),
    Pair("substitution", '<var>=$(<tool> "<file>"<?>\necho "$<var>"\n', ")", "}"),
    Pair("substitution", 'echo "${<var><?>/<file>"\n<tool>\n', "}", ")"),
    Pair("if", '<?> [ -n "$<var>" ]; then\n    echo "<word>"\nfi\n', "if", "do"),
    Pair("arithmetic", "<var>=<number>\nwhile (( <var> > 0 <?>; do\n    <tool>\ndone\n", "))", ")"),
    Pair("group", '(cd "<dir>" && <tool> <file><?>\necho "<word>"\n', ")", "}"),
    Pair("array", '<var>=("<file>" "<file2>"<?>\necho "${<var>[@]}"\n', ")", "]"),
)

IDIOMS = (
    Choice("loop variable", 'while read -r <var>; do\n    echo "$', '<var>"', ('<var2>"', '<var3>"', '<var4>"')),
    Choice("loop variable", 'for <var> in *.<ext>; do\n    rm -f "$', '<var>"', ('<var2>"', '<var3>"', '<var4>"')),
    Choice(
        "expansion",
        'for <var> in *.<ext>; do\n    mv "$<var>" "${<var>',
        '%.<ext>}.old"',
        ('%.<ext2>}.old"', '#.<ext>}.old"', '@.<ext>}.old"'),
    ),
    Choice("variable", '<var>="${1:-<word>}"\n\necho "$', '<var>"', ('<var2>"', '<var3>"', '<var4>"')),
    Choice("variable", '<var>="<dir>"\nmkdir -p "$<var>"\ncd "$', '<var>"', ('<var2>"', '<var3>"', '<var4>"')),
    Choice(
        "usage",
        'if [ $# -lt <number> ]; then\n    echo "Usage: $',
        '0 <file>"',
        ('1 <file>"', '2 <file>"', '3 <file>"'),
    ),
    Choice(
        "installed",
        'if ! command -v <tool> > /dev/null 2>&1; then\n    echo "',
        '<tool> is not installed"',
        ('<tool2> is not installed"', '<tool3> is not installed"', '<tool4> is not installed"'),
    ),
    Choice("options", "# <function> the <file>\nset -euo ", "pipefail\n", ("pipeline\n", "failpipe\n", "profile\n")),
    Choice(
        "trap",
        "# <function> the <file>\n<var>=$(mktemp)\ntrap 'rm -f \"$<var>\"' ",
        "EXIT\n",
        ("ELSE\n", "READ\n", "TRUE\n"),
    ),
    Choice("redirection", "<tool> <file> > /dev/null 2>", "&1\n", ("$1\n", "|1\n", "#1\n")),
    Choice("redirection", '<tool> "<file>" || {\n    echo "Error: <word>" >', "&2\n", ("&9\n", "|2\n", "$2\n")),
    Choice(
        "call",
        "<function>() {\n    <tool> <file>\n}\n\n",
        '<function> "$@"',
        ('<function2> "$@"', '<function3> "$@"', '<function4> "$@"'),
    ),
    Choice("argument", "<function>() {\n    local <var>=", '"$1"\n', ('"&1"\n', '"%1"\n', '"#1"\n')),
    Choice(
        "arithmetic",
        "<var>=<number>\nfor <var2> in *.<ext>; do\n    <var>=$((<var> + ",
        "1))\n",
        ("1]]\n", "1}}\n", '1""\n'),
    ),
    Choice("archive", 'tar -czf "<dir>/<word>', '.tar.gz" ', ('.txt" ', '.jpeg" ', '.conf" ')),
    Choice("find", 'find "<dir>" -name "*.<ext>" -type ', "f", ("q", "z", "v")),
    Choice("permission", 'cp "<file>" "<dir>"\nchmod ', "+x", ("^x", "%x", "~x")),
    Choice("end of loop", 'for <var> in "$@"; do\n    <tool> "$<var>"\n', "done\n", ("fi\n", "esac\n", "then\n")),
    Choice("end of test", 'if [ -f "<file>" ]; then\n    <tool> <file>\n', "fi\n", ("done\n", "esac\n", "do\n")),
    Choice(
        "end of case",
        'case "$1" in\n    <word>)\n        <tool> <file>\n        ;;\n',
        "esac\n",
        ("fi\n", "done\n", "then\n"),
    ),
)


def syntax_items() -> list[dict[str, str]]:
    """Return the items of bash_syntax: `bash -n` accepts each good script and refuses each bad one."""
    return minimal_pairs([each._replace(text=HEAD + each.text) for each in SYNTAX], WORDS, N_ITEMS, SEED)


def idiom_items() -> list[dict[str, str]]:
    """Return the items of bash_idioms: a script so far, how it goes on, and three ways in which it does not."""
    return choices([each._replace(context=HEAD + each.context) for each in IDIOMS], WORDS, N_ITEMS, SEED)
