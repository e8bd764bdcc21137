function __cloudhsm_cli_complete
    commandline -cp | env _CLOUDHSM_CLI_COMPLETE=1 cloudhsm-cli 2>/dev/null
end

complete --no-files --command cloudhsm-cli --arguments '(__cloudhsm_cli_complete)'
