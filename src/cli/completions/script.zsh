# Completion of `python -m src...` for zsh:  source <(python -m src --completion zsh)
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
typeset -g _advanced_code_model_before="${_comps[python]}"

_advanced_code_model() {
    local candidate
    local -a whole parts
    if [[ "$words[2] $words[3]" != "-m src"* ]]; then
        ${_advanced_code_model_before:-_files} # what completed python before
        return
    fi
    for candidate in ${(f)"$($words[1] -m src --complete "${(j: :)words[1,CURRENT-1]} ${(Q)PREFIX}" 2>/dev/null)"}; do
        if [[ "$candidate" == *' ' ]]; then
            whole+=("${candidate% }")
        else
            parts+=("$candidate")
        fi
    done
    compadd -a whole
    compadd -S '' -a parts
}

compdef _advanced_code_model python python3 python3.11 python3.12 python3.13 python3.14
