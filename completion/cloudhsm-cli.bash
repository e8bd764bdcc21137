_cloudhsm_cli_completion() {
    local line=${COMP_LINE:0:COMP_POINT} word IFS=$'\n'
    COMPREPLY=($(printf '%s' "$line" | _CLOUDHSM_CLI_COMPLETE=1 "$1" 2>/dev/null))
    word=${line##*[[:space:]]}
    # Readline breaks words at `=`, and replaces what follows it alone.
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
    [[ ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -F _cloudhsm_cli_completion cloudhsm-cli
