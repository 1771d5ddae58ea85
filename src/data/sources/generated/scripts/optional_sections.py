"""Options and functions that fit any task."""

from src.data.sources.generated.scripts.script import Function, OptionalSection, Setting

GENERIC_OPTIONS = (
    Setting("dry_run", "dry_run simulate preview", "off", "n", "dry-run", "", "«only show|print, but do not run» commands"),
    Setting("verbose", "verbose trace debug", "off", "v", "verbose", "", "«show every command|trace the commands»"),
    Setting("quiet", "quiet silent", "off", "q", "quiet", "", "«print errors only|say nothing|no messages»"),
    Setting("log_file", "log_file logfile log_path", "/var/log/«log_area=AREA»/«program».log", "l", "log-file", "FILE",
            "«append messages to|write messages to|log to» FILE"),
    Setting("force", "force assume_yes yes", "off", "y", "yes", "", "«do not ask|never ask|skip the question»"),
)  # fmt: skip

RUN = Function("run_name", "run execute maybe_run try",
    "«Run|Execute» a command, or «only print|just show» it «in a dry run|when nothing must change».", """
  if [[ $«dry_run» == «on» ]]; then
    echo "«would run|dry run|skipped»: $*"
  else
    "$@"
  fi
""")  # fmt: skip

CONFIRM = Function("confirm", "confirm ask_user ask question",
    "«Ask|Wait» for a yes «on the terminal|before we go on»«, unless told otherwise|».", """
  local «answer=ANSWER»
  [[ $«force» == «on» ]] && return 0
  read -r -p "$1 [y/N] " «answer»
  [[ $«answer» == [yY]* ]] || «die» "«stopped by user|nothing done|not confirmed»"
""")  # fmt: skip

OPTIONAL_SECTIONS = (
    OptionalSection(Function("owner", "owner_of who_keeps contact_for",
        "Machines«, their ports and owners|: name, port, owner| with port and owner».", """
  «table» | awk -v host="$1" '$1 == host { print $3 }'
"""), "", has_rows=True),
    OptionalSection(Function("require", "require need_commands check_tools require_commands",
        "Stop unless «all the given commands|every command that we need» «are|is» installed.", """
  local «tool=TOOLVAR»
  for «tool» in "$@"; do
    command -v "$«tool»" >/dev/null 2>&1 || «die» "«please install|command not found|missing command»: $«tool»"
  done
"""), "  «require» «tools»\n"),
    OptionalSection(Function("lock", "acquire_lock take_lock lock ensure_single",
        "Only one «copy|instance» «may run|runs» at a time.", """
  if ! mkdir "$«LOCK»" 2>/dev/null; then
    «die» "«already running|another copy is running|locked», see $«LOCK»"
  fi
  trap 'rmdir "$«LOCK»"' EXIT
""", before="readonly «LOCK=LOCKVAR»=/tmp/«program».lock\n\n"), "  «lock»\n"),
    OptionalSection(Function("settings", "print_settings show_config dump_settings",
        "Print the settings«, for the log| in use| of this run».", """
  «log» "version $«VERSION»"
«settings_lines»
"""), "  «settings»\n"),
    OptionalSection(Function("elapsed", "report_time print_duration show_elapsed",
        "Say how long «it took|the run took|we were busy».", """
  local «spent=SPENT»=$((SECONDS - «STARTED»))
  «log» "«took|finished after|ran for» $((«spent» / 60)) min $((«spent» % 60)) s"
""", before="readonly «STARTED=STARTVAR»=$SECONDS\n\n"), "  «elapsed»\n", is_late=True),
    OptionalSection(Function("not_root", "refuse_root check_user forbid_root", "Refuse to run as root.", """
  if [[ $(id -u) -eq 0 ]]; then
    «die» "«do not run this as root|run this as a normal user|root is not allowed»"
  fi
"""), "  «not_root»\n"),
    OptionalSection(Function("notify", "notify send_mail tell_admin",
        "Mail the «result|outcome» to «whom it concerns|the person on duty|the admin».", """
  local subject=$1
  if command -v mail >/dev/null 2>&1; then
    echo "$«PROGRAM» $«VERSION» on $(hostname)" | mail -s "$subject" "$«ADMIN»"
  fi
""", before="readonly «ADMIN=ADMINVAR»=«admin=FIRST»@«admin_domain=DOMAIN»\n\n"),
        '  «notify» "«program»: «done|finished|all good|complete»"\n', is_late=True),
    OptionalSection(Function("history", "record_run remember write_history", "Keep a line about «this|every» run.", """
  printf '%s %s %s\\n' "$(date +%F)" "$(id -un)" "$1" >>"$«HISTORY»"
""", before="readonly «HISTORY=HISTORYVAR»=$HOME/.«program».history\n\n"),
        "  «history» «ok|finished|success»\n", is_late=True),
    OptionalSection(Function("space", "check_space need_space require_space",
        "Check that there is «enough room|some space left» on the disk.", """
  local «free=FREEVAR»
  «free»=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }')
  if ((«free» < «MIN_FREE»)); then
    «die» "«only|just» $«free» MB left in $1, need $«MIN_FREE»"
  fi
""", before="readonly «MIN_FREE=MINFREEVAR»=«min_free=LARGE»  # MB\n\n"), '  «space» «/tmp|/var|/home|"$HOME"»\n'),
)  # fmt: skip
