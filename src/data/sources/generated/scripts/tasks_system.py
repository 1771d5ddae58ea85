"""Tasks about machines: disks, services, users, deployment, tests, git."""

from src.data.sources.generated.scripts.script import Function, Items, Setting, Task

SYSTEM_TASKS: dict[str, Task] = {
    "disk": Task(
        names="disk-watch.sh check-disk.sh disk-alert.sh monitor-space.sh df-check.sh",
        purpose="«warn|raise an alarm|complain» when a «disk|file system» is «nearly|almost» full",
        settings=(
            Setting("threshold", "threshold max_percent alarm_level", "«threshold_default=PERCENT»", "t", "threshold", "PERCENT",
                    "«warn above PERCENT|alarm level in percent|highest use that is fine»"),
            Setting("interval", "interval pause_seconds period", "«interval_default=MEDIUM»", "i", "interval", "SECONDS",
                    "«look every SECONDS|seconds between two looks|time between checks»"),
            Setting("rounds", "rounds checks repeat", "«rounds_default=SMALL»", "c", "count", "COUNT",
                    "«number of checks|look COUNT times|stop after COUNT checks»"),
        ),
        items=Items("mounts", "MOUNTS DISKS FILESYSTEMS", "MOUNT", "«Where to look|Disks to watch|Mount points»"),
        functions=(
            Function("used_percent", "used_percent disk_usage get_usage", "«Print|Output» how full a disk is, in percent.", """
  df -P "$1" | awk 'NR == 2 { sub("%", "", $5); print $5 }'
"""),
            Function("check_disk", "check_disk check_mount look_at", "«Warn|Complain» about one disk «if need be|when it is too full».", """
  local mount=$1 «used=USEDVAR»
  «used»=$(«used_percent» "$mount")
  if ((«used» > «threshold»)); then
    «log» "WARNING: $mount is «at|filled to» $«used»%, «limit|allowed» $«threshold»%"
    return 1
  fi
  «log» "$mount: $«used»% «used|in use|full»"
"""),
        ),
        main="""
  local mount «round=TRYVAR» «alarms=COUNTER»=0
  for ((«round» = 1; «round» <= «rounds»; «round»++)); do
    for mount in "${«mounts»[@]}"; do
      «check_disk» "$mount" || «alarms»=$((«alarms» + 1))
    done
    sleep "$«interval»"
  done
  ((«alarms» == 0)) || «die» "$«alarms» «warnings|alarms» in $«rounds» «checks|rounds»"
""",
        tools="df awk",
    ),
    "service": Task(
        names="service-ctl.sh services.sh control.sh manage-services.sh",
        purpose="«start, stop and check|control» a group of services«| in order|, one by one»",
        operand="action",
        operand_names="action command_word request",
        operand_label="ACTION",
        settings=(
            Setting("timeout", "timeout max_wait patience", "«timeout_default=MEDIUM»", "t", "timeout", "SECONDS",
                    "«wait at most SECONDS|seconds to wait for a service|patience with one service»"),
            Setting("host", "host server address", "«host_name=HOST»«host_number=SMALL».«host_domain=DOMAIN»", "H", "host", "HOST",
                    "«where the services run|machine to talk to|use this machine»"),
        ),
        items=Items("services", "SERVICES UNITS DAEMONS", "SERVICE", "«In the order of starting|The services|What we control»"),
        functions=(
            Function("remote", "remote on_host run_there", "Run systemctl on «the|that» machine.", """
  # shellcheck disable=SC2029
  «run»ssh "$«host»" systemctl "$@"
"""),
            Function("wait_for", "wait_for wait_active await", "«Wait|Hold on» until a service is «running|active».", """
  local «service=SERVICEVAR»=$1 «waited=SPENT»=0
  until «remote» is-active --quiet "$«service»"; do
    if ((«waited» >= «timeout»)); then
      «die» "$«service» «did not start|is still down» after $«timeout» s"
    fi
    sleep 1
    «waited»=$((«waited» + 1))
  done
"""),
            Function("start_all", "start_all bring_up start_services", "«Start|Bring up» «all|all services», «the first one first|in order».", """
  local «service=SERVICEVAR»
  for «service» in "${«services»[@]}"; do
    «log» "«starting|bringing up» $«service»"
    «remote» start "$«service»"
    «wait_for» "$«service»"
  done
"""),
            Function("stop_all", "stop_all shut_down stop_services", "«Stop|Shut down» «all|all services», «the last one first|in reverse».", """
  local «i=INDEX»
  for ((«i» = ${#«services»[@]} - 1; «i» >= 0; «i»--)); do
    «log» "«stopping|shutting down» ${«services»[«i»]}"
    «remote» stop "${«services»[«i»]}"
  done
"""),
        ),
        main="""
  case $«action» in
    start) «start_all» ;;
    stop) «stop_all» ;;
    restart)
      «stop_all»
      «start_all»
      ;;
    *)
      «usage» >&2
      exit 2
      ;;
  esac
""",
        tools="ssh",
    ),
    "users": Task(
        names="list-users.sh user-report.sh accounts.sh who-is-there.sh",
        purpose="«list|print|report» the «accounts|users» of this machine«| and where they live|, people first»",
        settings=(
            Setting("min_uid", "min_uid first_uid lowest_id", "«uid_default=LARGE»", "u", "min-uid", "N",
                    "«leave out ids below N|lowest id to list|first id of a person»"),
            Setting("source", "passwd_file user_db accounts_file", "/etc/passwd", "f", "file", "FILE",
                    "«read another file|file with the accounts|use FILE»"),
            Setting("column_width", "width name_width column", "«width_default=MEDIUM»", "w", "width", "COUNT",
                    "«width of the first column|pad names to COUNT|room for a name»"),
        ),
        items=Items("shells", "SHELLS LOGIN_SHELLS", "SHELL", "«Shells of people|Shells that count as a login|Login shells»"),
        functions=(
            Function("is_person", "is_person can_log_in has_login", "«Succeed|Return zero» if this is the shell of a person.", """
  case ${1##*/} in
    «shells.pattern») return 0 ;;
    *) return 1 ;;
  esac
"""),
            Function("list_users", "list_users print_accounts show_users", "«Print|List» «one account a line|all of them».", """
  local «user=USERVAR» «uid=UIDVAR» «home=HOMEVAR» «shell=SHELLVAR» «found=COUNTER»=0
  while IFS=: read -r «user» _ «uid» _ _ «home» «shell»; do
    ((«uid» >= «min_uid»)) || continue
    «is_person» "$«shell»" || continue
    printf '%-*s %6d %s\\n' "$«column_width»" "$«user»" "$«uid»" "$«home»"
    «found»=$((«found» + 1))
  done <"$«source»"
  «log» "$«found» «accounts|users|people» «in|from» $«source»"
"""),
        ),
        main="""
  [[ -r $«source» ]] || «die» "«cannot read|no such file|not readable»: $«source»"
  «list_users»
""",
        tools="id",
    ),
    "deploy": Task(
        names="deploy.sh release.sh ship.sh roll-out.sh publish.sh",
        purpose="«copy|bring|ship» a build to «some machines|our servers» and «switch to it|make it current»",
        operand="build",
        operand_names="build_dir build release_dir",
        operand_label="BUILD",
        settings=(
            Setting("root", "root install_dir app_dir", "«base=BASE»/«area=AREA»", "r", "root", "DIR",
                    "«where releases live|folder on the machines|install below DIR»"),
            Setting("port", "port health_port check_port", "«port_default=PORT»", "p", "port", "PORT",
                    "«port of the health check|ask this port|port that must answer»"),
            Setting("keep", "keep_releases keep history_size", "«keep_default=SMALL»", "k", "keep", "N",
                    "«old releases to keep|keep N releases|number of releases that stay»"),
        ),
        items=Items("hosts", "HOSTS SERVERS MACHINES", "HOSTN", "«Where it goes|Machines, the first one is the canary|Servers»"),
        functions=(
            Function("upload", "upload copy_build push_files", "«Copy|Send» the build to one «machine|host».", """
  local «host=HOSTVAR»=$1 «release=VERSIONVAR»=$2
  # shellcheck disable=SC2029
  «run»ssh "$«host»" mkdir -p "$«root»/$«release»"
  «run»rsync -a --delete "$«build»/" "$«host»:$«root»/$«release»/"
"""),
            Function("activate", "activate switch_release make_current", "«Let|Make» the «current|live» link «point|lead» to the «new|latest» release.", """
  local «host=HOSTVAR»=$1 «release=VERSIONVAR»=$2
  # shellcheck disable=SC2029
  «run»ssh "$«host»" ln -sfn "$«root»/$«release»" "$«root»/current"
  «log» "$«host»: «now runs|switched to|active» $«release»"
"""),
            Function("healthy", "healthy is_healthy check_health", "«Succeed|Return zero» if the machine answers.", """
  «run»curl -fsS --max-time «timeout=SMALL» "http://$1:$«port»/health" >/dev/null
"""),
            Function("clean", "remove_releases clean_up prune_releases", "«Remove|Delete» all but the «newest|last» $«keep» releases.", """
  # shellcheck disable=SC2029
  «run»ssh "$1" "cd '$«root»' && ls -1dt 20* | tail -n +$((«keep» + 1)) | xargs rm -rf"
"""),
        ),
        main="""
  [[ -d $«build» ]] || «die» "«no such build|not a folder|nothing to ship»: $«build»"
  local «host=HOSTVAR» «release=VERSIONVAR»
  «release»=$(date +%Y%m%d-%H%M%S)
  for «host» in "${«hosts»[@]}"; do
    «upload» "$«host»" "$«release»"
    «activate» "$«host»" "$«release»"
    «healthy» "$«host»" || «die» "$«host» «is not healthy|does not answer|is ill», stopping here"
    «clean» "$«host»"
  done
""",
        tools="ssh rsync curl",
    ),
    "tests": Task(
        names="run-tests.sh test-all.sh check-all.sh test-runner.sh",
        purpose="«run|execute» all «tests|test scripts» of a folder and «sum up|count the failures»",
        operand="folder",
        operand_names="test_dir suite tests_dir",
        operand_label="DIR",
        settings=(
            Setting("pattern", "pattern name_pattern select", "'«pattern_default=AREA»*.sh'", "p", "pattern", "GLOB",
                    "«only tests that match GLOB|names of the tests|select tests by name»"),
            Setting("limit", "time_limit seconds_each max_seconds", "«limit_default=MEDIUM»", "s", "seconds", "SECONDS",
                    "«stop a test after SECONDS|time for one test|time limit»"),
            Setting("stop_after", "stop_after max_failures tolerated", "«stop_default=SMALL»", "x", "max-failures", "COUNT",
                    "«give up after COUNT failures|failures to allow|most failures»"),
        ),
        functions=(
            Function("setup", "make_sandbox setup prepare", "«Make|Create» a folder «for the output|to work in» and «remove it|clean up» at the end.", """
  «sandbox»=$(mktemp -d)
  trap 'rm -rf "$«sandbox»"' EXIT
""", before='«sandbox=SANDBOX»=""\n\n'),
            Function("run_one", "run_one run_test single_test", "Run one test« quietly| and keep its output|», «with a time limit|for $«limit» s at most».", """
  local «test=TESTVAR»=$1 «output=ARCHIVE»
  «output»="$«sandbox»/$(basename "$«test»").out"
  if «run»timeout "$«limit»" bash "$«test»" >"$«output»" 2>&1; then
    echo "«ok|PASS|good»   $«test»"
    return 0
  fi
  echo "«FAILED|BROKEN|not ok»   $«test»"
  tail -n «tail_lines=MEDIUM» "$«output»"
  return 1
"""),
            Function("run_all", "run_all run_suite every_test", "Run «every test|them all» and count.", """
  local «test=TESTVAR» «passed=PASSEDVAR»=0 «broken=BROKENVAR»=0
  for «test» in "$«folder»"/$«pattern»; do
    if «run_one» "$«test»"; then
      «passed»=$((«passed» + 1))
    else
      «broken»=$((«broken» + 1))
    fi
    ((«broken» < «stop_after»)) || break
  done
  «log» "$«passed» «passed|good|fine», $«broken» «failed|broken|bad»"
  ((«broken» == 0))
"""),
        ),
        main="""
  [[ -d $«folder» ]] || «die» "«not a folder|no such folder|cannot find»: $«folder»"
  «setup»
  «run_all» || «die» "«some tests failed|not all is well|there were failures»"
""",
        tools="timeout mktemp",
    ),
    "git": Task(
        names="git-tidy.sh prune-branches.sh branch-report.sh clean-branches.sh",
        purpose="«find|list|remove» branches that are «merged|done with»«| and too old|, locally»",
        operand="repo",
        operand_names="repo repository work_tree",
        operand_label="REPO",
        settings=(
            Setting("base", "base main_branch trunk", "«base_default=BRANCH»", "b", "base", "BRANCH",
                    "«branch to compare with|merged into BRANCH|the main branch»"),
            Setting("remote", "remote upstream origin_name", "«remote_default=REMOTE»", "r", "remote", "NAME",
                    "«fetch from NAME first|name of the remote|remote to use»"),
            Setting("age", "max_age_days min_days stale_days", "«age_default=MEDIUM»", "a", "age", "DAYS",
                    "«younger branches stay|call it old after DAYS|least age in days»"),
        ),
        items=Items("protected", "PROTECTED KEEP_BRANCHES NEVER_DELETE", "BRANCH", "«Never touched|Branches that stay|Hands off»"),
        functions=(
            Function("in_repo", "in_repo g git_here", "Run git in the «repository|work tree of the operand».", """
  git -C "$«repo»" "$@"
"""),
            Function("is_protected", "is_protected must_stay keep_it", "«Succeed|Return zero» for a branch that «stays|we keep».", """
  case $1 in
    «protected.pattern» | "$«base»") return 0 ;;
    *) return 1 ;;
  esac
"""),
            Function("age_of", "age_of branch_age days_old", "«Print|Output» the age of the last commit, in days.", """
  local «seconds=SPENT»
  «seconds»=$(«in_repo» log -1 --format=%ct "$1")
  echo $((($(date +%s) - «seconds») / 86400))
"""),
            Function("tidy", "tidy delete_merged clean_branches", "«Delete|Remove» «what is merged and old|the old branches».", """
  local «branch=BRANCHVAR» «days=DAYSVAR» «deleted=COUNTER»=0
  while IFS= read -r «branch»; do
    «is_protected» "$«branch»" && continue
    «days»=$(«age_of» "$«branch»")
    if ((«days» >= «age»)); then
      «run»«in_repo» branch -d "$«branch»"
      «deleted»=$((«deleted» + 1))
    else
      «log» "$«branch» «stays|is too young|is kept»: $«days» days old"
    fi
  done < <(«in_repo» for-each-ref --merged "$«base»" --format='%(refname:short)' refs/heads)
  «log» "$«deleted» branches «deleted|removed|gone»"
"""),
        ),
        main="""
  «in_repo» rev-parse --git-dir >/dev/null 2>&1 || «die» "«not a repository|no git here|no repository in»: $«repo»"
  «in_repo» fetch --quiet --prune "$«remote»"
  «tidy»
""",
        tools="git",
    ),
}  # fmt: skip
