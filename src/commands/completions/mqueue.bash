# Completions of mqueue for bash. The program finds them: see `mqueue completions --help`.

_mqueue() {
    local program line how kept
    program=$(type -P mqueue) || program=${1/#\~\//$HOME/}
    mapfile -t COMPREPLY <<<"$("$program" __complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)"
    how=${COMPREPLY[0]} kept=${COMPREPLY[0]#*$'\t'}
    COMPREPLY=("${COMPREPLY[@]:1}")
    case ${how%%$'\t'*} in
    open) compopt -o nospace ;;
    files | folders)
        # readline completes files best, with ~, variables and its own quotes
        if [[ -z $kept && $how == files* ]]; then
            compopt -o default
        elif [[ -z $kept ]]; then
            compopt -o dirnames
        else
            compopt -o nospace
            while IFS= read -r line; do
                [[ -d $line ]] && line+=/
                COMPREPLY+=("$kept$(printf %q "$line")")
            done < <(compgen "$([[ $how == files* ]] && echo -f || echo -d)" -- "${2#"$kept"}")
        fi
        ;;
    esac
}

complete -F _mqueue mqueue
