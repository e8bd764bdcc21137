#compdef cloister

_cloister_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _CLOISTER_COMPLETE=complete_zsh cloister)
}

[ "$funcstack[1]" = _cloister ] && _cloister_completion "$@" || compdef _cloister_completion cloister
