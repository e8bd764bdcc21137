#compdef cloudhsm-cli

_cloudhsm_cli() {
    local -a found open
    found=(${(f)"$(print -rn -- "$LBUFFER" | _CLOUDHSM_CLI_COMPLETE=1 cloudhsm-cli 2>/dev/null)"})
    open=(${(M)found:#*[=/]})
    compadd -Q -S '' -- $open
    compadd -Q -- ${found:|open}
}

_cloudhsm_cli "$@"
