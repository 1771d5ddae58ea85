"""The words of the scripts: names, paths, hosts and numbers, the most frequent first."""

from src.data.sources.generated.grammar import Lexicon


def _words(text: str) -> Lexicon:
    return Lexicon(text.split())


_HOSTS = "web db cache mail files proxy build search queue metrics backup edge auth"

LEXICONS: dict[str, Lexicon] = {
    "FIRST": _words(
        "anna ben carla david emma frank grace henry irene jonas karin lukas maria nils olga paul rosa tom"
    ),
    "LAST": _words(
        "smith jones weber novak rossi garcia keller larsen meyer moreau silva tanaka kowalski olsen brandt"
    ),
    "DOMAIN": _words("example.com example.org example.net corp.example lab.example shop.example"),
    "MAJOR": _words("1 2 3 4 5"),
    "MINOR": _words("0 1 2 3 4 5 6 7 8 9"),
    "YEAR": _words("2024 2023 2022 2021 2020 2019 2018"),
    "MONTH": _words("01 02 03 04 05 06 07 08 09 10 11 12"),
    "DAY": _words("01 03 04 07 08 09 11 12 14 15 17 18 20 21 22 24 25 26 27 28"),
    "AREA": _words(
        "data mail web photos projects reports music orders billing research archive media docs sales games"
    ),
    "BASE": _words("/srv /var/lib /home/shared /opt /mnt/disk1 /data /media/store /var/local /export /mnt/nas"),
    "HOST": _words(_HOSTS),
    "HOSTN": Lexicon(f"{host}{number}" for number in range(10, 20) for host in _HOSTS.split()),
    "ROOTDIR": _words("tmp var home srv data etc opt"),
    "SERVICE": _words("nginx postgresql redis cron sshd docker postfix haproxy grafana rabbitmq memcached cups squid"),
    "TOOL": _words("awk sed grep sort find tar gzip curl git rsync jq bc openssl xargs diff"),
    "SMALL": _words("3 5 2 4 6 7 8 9"),
    "MEDIUM": _words("10 20 30 15 25 40 50 60 12 14 45 35 90"),
    "LARGE": _words("100 200 500 1000 250 300 400 750 2000 5000"),
    "PERCENT": _words("80 90 85 95 75 70 60 88 92"),
    "PORT": _words("8080 5432 443 3000 9090 6379 8443 5000 2222 3306"),
    "EXTENSION": _words("log txt csv json jpg conf bak xml png md yaml sql"),
    "MINUTE": Lexicon(str(minute) for minute in range(60)),
    "HOUR": Lexicon(str(hour) for hour in range(24)),
    "WEEKDAY": Lexicon("0123456"),
    "DIGIT": Lexicon("1234567890"),
    "TEAMKEY": _words("OPS DEV SRE INFRA DATA WEB QA"),
    "LEVEL": _words("ERROR WARN INFO FATAL DEBUG CRITICAL NOTICE TRACE"),
    "CONFIGKEY": _words("host port user timeout path retries color mode size limit format language zone cache theme"),
    "MOUNT": _words("/home /var /tmp /srv /opt /boot /data /mnt/nas /export"),
    "SHELL": _words("bash zsh sh fish ksh dash tcsh"),
    "BRANCH": _words("main develop master release staging production stable testing"),
    "REMOTE": _words("origin upstream github gitlab mirror"),
    "SANDBOX": _words("sandbox work_dir scratch_dir tmp_dir"),
    "INDEX": _words("i index n k"),
    "TEAM": _words("ops platform backend data support release storage night-shift"),
    "EOF": _words("EOF USAGE HELP END TEXT"),
    "STATUS": _words("1 2 3 64 70"),
}

VARIABLES: dict[str, Lexicon] = {
    "LOOPFILE": _words("file path entry name item f candidate"),
    "COUNTER": _words("count total n found number hits matched"),
    "HOSTVAR": _words("host server machine node target"),
    "LINEVAR": _words("line row record text"),
    "KEYVAR": _words("key field setting option_name"),
    "VALUEVAR": _words("value val content"),
    "USEDVAR": _words("used percent usage_now level"),
    "USERVAR": _words("user account login person"),
    "HOMEVAR": _words("home home_dir user_home"),
    "UIDVAR": _words("uid user_id id_number"),
    "DAYSVAR": _words("days age_days n_days"),
    "TABLEFN": _words("inventory machines contacts list_owners"),
    "OWNERFN": _words("owner_of who_keeps contact_for"),
    "SHELLVAR": _words("shell login_shell sh"),
    "URLVAR": _words("url link address"),
    "TRYVAR": _words("attempt try round"),
    "DELAYVAR": _words("delay pause wait_for"),
    "SUMVAR": _words("sum total_sum amount"),
    "BRANCHVAR": _words("branch ref head"),
    "RESULTVAR": _words("result outcome verdict"),
    "PASSEDVAR": _words("passed good green"),
    "BROKENVAR": _words("broken red failures"),
    "STATEVAR": _words("state condition health"),
    "TMPVAR": _words("tmp temp scratch"),
    "VERSIONVAR": _words("release_id build new_release"),
    "LINKVAR": _words("link_path current live"),
    "SERVICEVAR": _words("service unit daemon"),
    "TESTVAR": _words("test_file script t case_file"),
    "OPT": _words("opt option flag letter"),
    "TOOLVAR": _words("tool command name cmd program"),
    "LOCKVAR": _words("LOCK_DIR LOCK LOCK_PATH"),
    "STARTVAR": _words("STARTED BEGIN T0"),
    "SPENT": _words("seconds spent duration elapsed"),
    "ANSWER": _words("answer reply choice"),
    "ADMINVAR": _words("ADMIN MAIL_TO RECIPIENT OPERATOR"),
    "HISTORYVAR": _words("HISTORY HISTORY_FILE JOURNAL"),
    "FREEVAR": _words("free_mb available room"),
    "MINFREEVAR": _words("MIN_FREE NEEDED_MB MIN_SPACE"),
    "STAMP": _words("stamp timestamp now today"),
    "ARCHIVE": _words("archive file output tarball"),
    "NAMEVAR": _words("name clean base title"),
    "NUMBERVAR": _words("number i index counter"),
    "FAILEDVAR": _words("failed skipped problems"),
    "DIRVAR": _words("dir folder place"),
    "AREAVAR": _words("area part sub"),
    "BEFORE": _words("before used_before at_start"),
    "EXPECTED": _words("expected want sum"),
    "ERRORS": _words("errors problems bad"),
}
"""Names of variables, one lexicon per role; within a function, all names differ."""
