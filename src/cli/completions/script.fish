# Completion of `python -m src...` for fish:  python -m src --completion fish | source
function __advanced_code_model_is_ours
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test "$words[2]" = -m; and string match -q 'src*' -- "$words[3]" (commandline -ct)
end

function __advanced_code_model_complete
    set -l words (commandline -opc)
    $words[1] -m src --complete (commandline -cp | string collect) 2>/dev/null | string trim --right
end

for name in python python3 python3.11 python3.12 python3.13 python3.14
    complete -c $name -n __advanced_code_model_is_ours -f -a '(__advanced_code_model_complete)'
end
