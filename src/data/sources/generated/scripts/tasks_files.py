"""Tasks about files: backup, renaming, cleaning up, checksums, photos."""

from src.data.sources.generated.scripts.script import Function, Items, Setting, Task

FILE_TASKS: dict[str, Task] = {
    "backup": Task(
        names="backup.sh make-backup.sh save-files.sh snapshot.sh archive.sh",
        purpose="«pack|save|archive» a folder «into|as» a dated archive«| and drop old ones|, keeping only the newest»",
        operand="source",
        operand_names="source_dir source input_dir src",
        operand_label="SOURCE",
        settings=(
            Setting("target", "target_dir backup_dir destination archive_dir", "«base=BASE»/«area=AREA»", "d", "target",
                    "DIR", "«where the archives go|folder for archives|write archives to DIR»"),
            Setting("keep", "keep_days retention_days max_age", "«keep_default=MEDIUM»", "k", "keep", "DAYS",
                    "«remove archives older than DAYS|keep archives for DAYS days|days to keep»"),
            Setting("prefix", "prefix archive_name label", "«prefix_default=AREA»", "p", "prefix", "NAME",
                    "«name of the archives|start of the file names|label in the file name»"),
        ),
        functions=(
            Function("make_archive", "create_archive make_archive pack pack_source",
                     "«Pack|Archive|Compress» the «source|folder» into a new «archive|file».", """
  local «stamp=STAMP» «archive=ARCHIVE»
  «stamp»=$(date +%Y%m%d-%H%M%S)
  «archive»="$«target»/$«prefix»-$«stamp».tar.gz"
  «run»mkdir -p "$«target»"
  «run»tar -czf "$«archive»" -C "$(dirname "$«source»")" "$(basename "$«source»")"
  «log» "«wrote|created|saved» $«archive»"
"""),
            Function("prune", "remove_old prune_archives delete_old expire",
                     "«Remove|Delete» archives that are «too old|older than $«keep» days».", """
  local «old=LOOPFILE» «removed=COUNTER»=0
  while IFS= read -r «old»; do
    «run»rm -f "$«old»"
    «removed»=$((«removed» + 1))
  done < <(find "$«target»" -name "$«prefix»-*.tar.gz" -mtime +"$«keep»")
  «log» "«removed|deleted» $«removed» old archives"
"""),
        ),
        main="""
  [[ -d $«source» ]] || «die» "«not a folder|no such folder|cannot find»: $«source»"
  «make_archive»
  «prune»
""",
        tools="tar gzip",
    ),
    "rename": Task(
        names="rename-files.sh batch-rename.sh tidy-names.sh clean-names.sh normalize-names.sh",
        purpose="«give|assign» files «tidy|clean|uniform» names«| and number them|, without spaces»",
        operand="folder",
        operand_names="folder dir directory target",
        operand_label="DIR",
        settings=(
            Setting("extension", "extension suffix file_type", "«extension_default=EXTENSION»", "e", "extension", "EXT",
                    "«only files with this ending|rename files that end in .EXT|file type to rename»"),
            Setting("start", "start first_number next_number", "1", "s", "start", "N",
                    "«first number|start counting at N|number of the first file»"),
            Setting("prefix", "prefix base_name stem", "«prefix_default=AREA»", "p", "prefix", "NAME",
                    "«start of the new names|put NAME in front|name before the number»"),
        ),
        functions=(
            Function("clean_name", "clean_name tidy slugify normalize", "«Print|Output» a name in lower case"
                     "« without spaces|, with dashes for spaces».", """
  printf '%s' "$1" | tr '[:upper:]' '[:lower:]' | tr -s ' _' '-'
"""),
            Function("rename_one", "rename_one rename_file move_file",
                     "«Rename|Move» one file«, but never| and do not» «overwrite|replace» another one.", """
  local old=$1 new=$2
  if [[ $old == "$new" ]]; then
    return 0
  fi
  if [[ -e $new ]]; then
    «log» "«skipping|left alone|cannot rename» $old: $new exists"
    return 1
  fi
  «run»mv -- "$old" "$new"
"""),
            Function("rename_all", "rename_all process_folder rename_files walk",
                     "«Go through|Rename|Walk over» all files «of|in» the folder.", """
  local «file=LOOPFILE» «name=NAMEVAR» «number=NUMBERVAR»=$«start» «failed=FAILEDVAR»=0
  for «file» in "$«folder»"/*."$«extension»"; do
    [[ -f $«file» ]] || continue
    «name»=$(«clean_name» "$(basename "$«file»" ".$«extension»")")
    if «rename_one» "$«file»" "$«folder»/$«prefix»-$«number»-$«name».$«extension»"; then
      «number»=$((«number» + 1))
    else
      «failed»=$((«failed» + 1))
    fi
  done
  «log» "«renamed|moved|done with» $((«number» - «start»)) files, $«failed» «failed|skipped|left»"
"""),
        ),
        main="""
  [[ -d $«folder» ]] || «die» "«not a folder|no such folder|cannot find»: $«folder»"
  «rename_all»
""",
        tools="mv tr",
    ),
    "cleanup": Task(
        names="clean-up.sh sweep.sh purge-temp.sh remove-old.sh tidy-disk.sh",
        purpose="«remove|delete|clear away» old «files|temporary files» from «some|a few|several» folders",
        settings=(
            Setting("age", "max_age days older_than", "«age_default=MEDIUM»", "a", "age", "DAYS",
                    "«remove files older than DAYS|days to keep a file|age of files to remove»"),
            Setting("pattern", "pattern name_pattern mask", "'*.«pattern_default=EXTENSION»'", "p", "pattern", "GLOB",
                    "«only files that match GLOB|names to remove|which files to remove»"),
            Setting("root", "root base_dir top", "«base=BASE»", "r", "root", "DIR",
                    "«folder above the areas|where the areas are|look below DIR»"),
        ),
        functions=(
            Function("clean_area", "clean_area sweep_folder clean_dir purge",
                     "«Remove|Delete|Clear» the old files of one «area|folder».", """
  local «dir=DIRVAR»=$1 «file=LOOPFILE» «removed=COUNTER»=0
  if [[ ! -d $«dir» ]]; then
    «log» "«no such folder|skipping|not there»: $«dir»"
    return 0
  fi
  while IFS= read -r -d '' «file»; do
    «run»rm -f -- "$«file»"
    «removed»=$((«removed» + 1))
  done < <(find "$«dir»" -type f -name "$«pattern»" -mtime +"$«age»" -print0)
  «log» "$«dir»: «removed|deleted|dropped» $«removed» files"
"""),
            Function("disk_use", "disk_use used_space size_of", "«Print|Output» how many megabytes «are in use|a folder takes».", """
  du -sm "$1" 2>/dev/null | cut -f1
"""),
        ),
        items=Items("areas", "AREAS FOLDERS PARTS", "AREA", "«Folders to|The folders that we» clean up"),
        main="""
  local «area_name=AREAVAR» «before=BEFORE»
  [[ -d $«root» ]] || «die» "«not a folder|no such folder|cannot find»: $«root»"
  «before»=$(«disk_use» "$«root»")
  for «area_name» in "${«areas»[@]}"; do
    «clean_area» "$«root»/$«area_name»"
  done
  «log» "$«root»: $«before» MB «before|at first», $(«disk_use» "$«root»") MB «now|after»"
""",
        tools="find du",
    ),
    "checksum": Task(
        names="verify-files.sh checksums.sh check-integrity.sh hash-tree.sh",
        purpose="«write|record» checksums of a folder, or «compare|check» them«| with an earlier list|, file by file»",
        operand="folder",
        operand_names="folder dir tree",
        operand_label="DIR",
        settings=(
            Setting("list", "list_file sums manifest", "«list_default=AREA».sha256", "m", "manifest", "FILE",
                    "«list of checksums|where the checksums are|read or write FILE»"),
            Setting("limit", "max_errors limit tolerance", "«limit_default=SMALL»", "t", "tolerance", "N",
                    "«give up after N errors|errors to allow|largest number of errors»"),
        ),
        functions=(
            Function("checksum", "checksum hash_of digest", "«Print|Output» the checksum of a file«| and nothing else|, without its name».", """
  shasum -a 256 "$1" | cut -d ' ' -f 1
"""),
            Function("write_list", "write_list record_sums save_manifest", "«Write|Record» a line for «each|every» file.", """
  local «file=LOOPFILE»
  : >"$«list»"
  find "$«folder»" -type f | sort | while IFS= read -r «file»; do
    printf '%s %s\\n' "$(«checksum» "$«file»")" "$«file»" >>"$«list»"
  done
  «log» "«wrote|recorded» $(wc -l <"$«list»") checksums «to|in» $«list»"
"""),
            Function("verify", "verify_list compare check_sums", "«Compare|Check» every file with «the list|its line».", """
  local «expected=EXPECTED» «file=LOOPFILE» «errors=ERRORS»=0
  while read -r «expected» «file»; do
    if [[ ! -f $«file» ]]; then
      «log» "«missing|gone|not found»: $«file»"
      «errors»=$((«errors» + 1))
    elif [[ $(«checksum» "$«file»") != "$«expected»" ]]; then
      «log» "«changed|differs|modified»: $«file»"
      «errors»=$((«errors» + 1))
    fi
    if ((«errors» > «limit»)); then
      «die» "«too many errors|giving up|more than $«limit» errors»"
    fi
  done <"$«list»"
  «log» "«errors|problems|bad files»: $«errors»"
"""),
        ),
        main="""
  if [[ -f $«list» ]]; then
    «verify»
  else
    «write_list»
  fi
""",
        tools="shasum find sort",
    ),
}  # fmt: skip
