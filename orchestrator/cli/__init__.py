"""The `cloister` command: every command parses, calls and renders."""
