# Completion of `python -m src...` for bash:  source <(python -m src --completion bash)
_advanced_code_model_before=$(complete -p python 2>/dev/null)

_advanced_code_model() {
    local line="${COMP_LINE:0:COMP_POINT}" typed cut candidate
    COMPREPLY=()
    if [[ "${COMP_WORDS[1]} ${COMP_WORDS[2]}" != "-m src"* ]]; then
        compopt +o nospace 2>/dev/null
        if [[ "$_advanced_code_model_before" == *" -F "* ]]; then # what completed python before
            local before="${_advanced_code_model_before##* -F }"
            "${before%% *}" "$@"
        fi
        return
    fi
    typed="${line##* }"
    cut="${typed%"${typed##*[=:]}"}" # readline replaces what is behind the last = or : alone,
    [[ "$typed" == [\'\"]* ]] && cut="" # except in a quoted word
    while IFS= read -r candidate; do
        [[ "$typed" == [\'\"]* ]] && candidate="${candidate% }"
        COMPREPLY+=("${candidate#"$cut"}")
    done < <("${COMP_WORDS[0]}" -m src --complete "$line" 2>/dev/null)
}

complete -o default -o nospace -F _advanced_code_model python python3 python3.11 python3.12 python3.13 python3.14
