#compdef mqueue
# Completions of mqueue for zsh. The program finds them: see `mqueue completions --help`.

_mqueue() {
    local program how kept line word tab=$'\t'
    local -a lines closed open
    program=${commands[mqueue]:-${${(Q)words[1]}/#\~\//$HOME/}}
    lines=("${(@f)$("$program" __complete zsh ${(@Q)words[2,CURRENT-1]:-} "${(Q)PREFIX}" 2>/dev/null </dev/null)}")
    how=${lines[1]%%$tab*} kept=${lines[1]#*$tab}
    [[ -z $kept ]] || compset -P "${(b)kept}"
    case $how in
    files) _files ;;
    folders) _files -/ ;;
    words)
        for line in "${(@)lines[2,-1]}"; do
            word=${${line[2,-1]}%%$tab*}
            word=${${word//\\/\\\\}//:/\\:}:${line#*$tab}
            if [[ $line[1] == + ]]; then open+=("$word"); else closed+=("$word"); fi
        done
        (($#open)) && _describe -V mqueue open -S ''
        (($#closed)) && _describe -V mqueue closed
        ;;
    esac
}

if [[ $funcstack[1] == _mqueue ]]; then
    _mqueue "$@"
else
    compdef _mqueue mqueue
fi
