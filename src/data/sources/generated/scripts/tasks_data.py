"""Tasks about data: logs, tables, configuration, downloads, notes."""

from src.data.sources.generated.scripts.script import Function, Items, Setting, Task

_FILES = "input_file input file data_file"

DATA_TASKS: dict[str, Task] = {
    "log report": Task(
        names="log-report.sh summarize-log.sh error-summary.sh read-logs.sh log-stats.sh",
        purpose="«count|list|summarize» what «went wrong|happened» in a log file«|, the most frequent first| by level»",
        operand="input",
        operand_names=_FILES,
        operand_label="LOGFILE",
        settings=(
            Setting("top", "top max_lines limit", "«top_default=SMALL»", "t", "top", "N",
                    "«show the N most frequent messages|print N lines|how many to show»"),
            Setting("since", "since start_date from_date", "«since_y=YEAR»-«since_m=MONTH»-«since_d=DAY»", "s", "since", "DATE",
                    "«leave out lines before DATE|first day to read|read from DATE on»"),
        ),
        items=Items("levels", "LEVELS SEVERITIES", "LEVEL", "«Levels to count|What we look for», «in this order|top down»"),
        functions=(
            Function("recent", "recent_lines select_lines newer_lines",
                     "«Print|Output» the lines «of|from» $«since» «or later|on»«|, whatever their level».", """
  awk -v first="$«since»" '$1 >= first' "$«input»"
"""),
            Function("count_level", "count_level count_lines how_many", "«Count|Number of» the lines with one level.", """
  local level=$1
  «recent» | grep -c " $level " || true
"""),
            Function("top_messages", "top_messages frequent_messages most_common",
                     "«Print|List» the «most frequent|commonest» messages.", """
  «recent» | cut -d ' ' -f «column=SMALL»- | sort | uniq -c | sort -rn | head -n "$«top»"
"""),
        ),
        main="""
  [[ -r $«input» ]] || «die» "«cannot read|no such file|not readable»: $«input»"
  local level
  for level in "${«levels»[@]}"; do
    «log» "$level: $(«count_level» "$level") «lines|times|messages»"
  done
  «top_messages»
""",
        tools="awk sort uniq",
    ),
    "table": Task(
        names="csv-report.sh sum-table.sh csv-stats.sh table-summary.sh group-sums.sh",
        purpose="«add up|sum|total» a column of a CSV file«| for each group|, group by group»",
        operand="input",
        operand_names=_FILES,
        operand_label="FILE",
        settings=(
            Setting("column", "column value_column number_column", "«column_default=SMALL»", "c", "column", "N",
                    "«column with the numbers|add up column N|number of the column»"),
            Setting("group", "group_column group key_column", "1", "g", "group", "N",
                    "«column to group by|column with the names|group by column N»"),
            Setting("separator", "separator delimiter sep", "','", "s", "separator", "CHAR",
                    "«character between the columns|split lines at CHAR|column separator»"),
        ),
        functions=(
            Function("check_table", "check_table validate check_columns",
                     "«Stop|Give up» when «a line|some line» has too few columns.", """
  local «line=LINEVAR» «number=NUMBERVAR»=0 «fields=COUNTER»
  while IFS= read -r «line»; do
    «number»=$((«number» + 1))
    «fields»=$(printf '%s' "$«line»" | awk -F "$«separator»" '{ print NF }')
    if ((«fields» < «column»)); then
      «die» "line $«number»: «only|just» $«fields» columns, need $«column»"
    fi
  done <"$«input»"
"""),
            Function("sums", "group_sums add_up sum_by_group", "«Print|Output» each group and its sum«, the largest first|».", """
  awk -F "$«separator»" -v c="$«column»" -v g="$«group»" '
    NR > 1 { total[$g] += $c }
    END { for (name in total) printf "%-«width=MEDIUM»s %10.2f\\n", name, total[name] }
  ' "$«input»" | sort -k 2 -rn
"""),
        ),
        main="""
  [[ -r $«input» ]] || «die» "«cannot read|no such file|not readable»: $«input»"
  «check_table»
  «log» "«sums of|totals of|report on» column $«column», by column $«group»"
  «sums»
""",
        tools="awk sort",
    ),
    "config": Task(
        names="read-config.sh show-settings.sh check-config.sh config-get.sh",
        purpose="«read|check|load» a file of key=value lines«| and print a summary|, known keys only»",
        operand="input",
        operand_names="config_file config settings_file conf",
        operand_label="FILE",
        settings=(
            Setting("wanted", "wanted only_key lookup", '""', "k", "key", "KEY",
                    "«print this value only|look up one key|show the value of KEY»"),
            Setting("marker", "comment_mark comment_char marker", "'#'", "m", "marker", "CHAR",
                    "«lines with CHAR are comments|what starts a comment|comment character»"),
        ),
        items=Items("keys", "KNOWN_KEYS KEYS ALLOWED", "CONFIGKEY", "«Keys that we know|The keys of a good file|Allowed keys»"),
        functions=(
            Function("is_known", "is_known known_key allowed", "«Succeed|Return zero» for a key that we know.", """
  case $1 in
    «keys.pattern») return 0 ;;
    *) return 1 ;;
  esac
"""),
            Function("read_file", "read_config load_file parse_file", "«Read|Go through» the file line by line.", """
  local «key=KEYVAR» «value=VALUEVAR» «unknown=ERRORS»=0
  while IFS='=' read -r «key» «value»; do
    [[ -z $«key» || $«key» == "$«marker»"* ]] && continue
    if ! «is_known» "$«key»"; then
      «log» "«unknown key|no such setting|ignored»: $«key»"
      «unknown»=$((«unknown» + 1))
    elif [[ -z $«wanted» || $«wanted» == "$«key»" ]]; then
      printf '%s=%s\\n' "$«key»" "$«value»"
    fi
  done <"$«input»"
  ((«unknown» == 0)) || «die» "$«unknown» «unknown keys|bad lines|keys not known»"
"""),
            Function("write_example", "write_example sample_config make_template",
                     "«Write|Print» «a file to start from|an example»«| with all keys».", """
  cat <<'«eof2=EOF-eof»'
«keys.first»=«example1=LARGE»
«keys.last»=«example2=PORT»
«eof2»
"""),
        ),
        main="""
  if [[ ! -e $«input» ]]; then
    «log» "«no such file, here is an example|missing file, try this|not found; start from this»:"
    «write_example»
    exit 1
  fi
  «read_file»
""",
        tools="cat",
    ),
    "download": Task(
        names="fetch.sh download.sh get-files.sh pull-data.sh mirror.sh",
        purpose="«fetch|download|get» files «from a list of addresses|named in a list», «trying again|with retries»«| and resume»",
        operand="input",
        operand_names="list url_list list_file",
        operand_label="LIST",
        settings=(
            Setting("retries", "retries max_tries attempts", "«retries_default=SMALL»", "r", "retries", "N",
                    "«try N times|number of attempts|give up after N attempts»"),
            Setting("wait", "first_delay wait_seconds pause", "«wait_default=SMALL»", "w", "wait", "SECONDS",
                    "«wait before the second try|first pause, doubled each time|seconds between tries»"),
            Setting("target", "target_dir download_dir output_dir", "«base=BASE»/«area=AREA»", "o", "output", "DIR",
                    "«put the files into DIR|where the files go|folder for the files»"),
        ),
        functions=(
            Function("fetch", "fetch fetch_one get_url", "«Fetch|Get» one file, «without|with no» «tries|retries».", """
  local «url=URLVAR»=$1 «file=LOOPFILE»
  «file»="$«target»/$(basename "$«url»")"
  «run»curl -fsSL --max-time «timeout=MEDIUM» -o "$«file»" "$«url»"
"""),
            Function("retry", "retry try_hard with_retries", "Run a command «again and again|until it works», with longer «pauses|waits».", """
  local «attempt=TRYVAR»=1 «delay=DELAYVAR»=$«wait»
  until "$@"; do
    if ((«attempt» >= «retries»)); then
      «log» "«giving up|failed» after $«attempt» tries: $*"
      return 1
    fi
    «log» "«try|attempt» $«attempt» failed, «next in|waiting» $«delay» s"
    sleep "$«delay»"
    «attempt»=$((«attempt» + 1))
    «delay»=$((«delay» * 2))
  done
"""),
        ),
        main="""
  local «url=URLVAR» «missing=BROKENVAR»=0
  «run»mkdir -p "$«target»"
  while IFS= read -r «url»; do
    «retry» «fetch» "$«url»" || «missing»=$((«missing» + 1))
  done <"$«input»"
  ((«missing» == 0)) || «die» "$«missing» files «are missing|could not be fetched|failed»"
""",
        tools="curl",
    ),
    "notes": Task(
        names="notes.sh todo.sh tasks.sh remember.sh",
        purpose="keep a «simple|small|plain» list of «things to do|notes» in a text file",
        operand="action",
        operand_names="action command_name verb",
        operand_label="COMMAND",
        settings=(
            Setting("store", "store list_file todo_file", '"$HOME/.«area=AREA».txt"', "f", "file", "FILE",
                    "«where the list is kept|use this file|the list»"),
            Setting("tag", "tag topic project", "«tag_default=AREA»", "t", "tag", "TAG",
                    "«mark new lines with TAG|topic of a new line|tag to use»"),
        ),
        functions=(
            Function("add", "add_line add new_note", "«Add|Append» a line «with today's date|to the end».", """
  printf '%s [%s] %s\\n' "$(date +%F)" "$«tag»" "$1" >>"$«store»"
  «log» "«added|noted|saved»: $1"
"""),
            Function("show", "show_lines show list_notes", "«Show|Print|List» the lines «of one tag|with our tag».", """
  [[ -f $«store» ]] || «die» "«nothing there yet|no list yet|the list is empty»"
  grep -n "\\[$«tag»\\]" "$«store»" || «log» "«nothing about|no lines for|nothing in» $«tag»"
"""),
            Function("drop", "drop_line remove finish", "«Remove|Delete|Drop» «one line|a line by its number».", """
  local «number=NUMBERVAR»=$1 «tmp=TMPVAR»
  «tmp»=$(mktemp)
  sed "${«number»}d" "$«store»" >"$«tmp»"
  «run»mv "$«tmp»" "$«store»"
"""),
        ),
        main="""
  case $«action» in
    add) «add» "${TEXT:?set TEXT to the new line}" ;;
    show) «show» ;;
    drop) «drop» "${LINE:?set LINE to a number}" ;;
    *) «die» "«no such action|unknown action|what is that»: $«action»" ;;
  esac
""",
        tools="sed grep",
    ),
}  # fmt: skip
