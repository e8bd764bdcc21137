"""What a wheel carries for shells is what the command generates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from tests.cli.completion_scripts import DIRECTORY, SHELLS, script
from tests.cli.conftest import Run


@pytest.mark.parametrize("shell", SHELLS)
def test_the_committed_script_is_the_generated_one(shell: str) -> None:
    assert (DIRECTORY / f"cloister.{shell}").read_text() == script(shell)


def test_the_zsh_script_completes_at_the_first_tab() -> None:
    assert "funcstack" in script("zsh")


SECRET = "hunter2-hunter2"
MAIN = "from orchestrator.cli.cloudhsm.main import main; raise SystemExit(main())"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("cloudhsm-cli us", ["user"]),
        ("cloudhsm-cli quorum token-sign set", ["set-quorum-value", "set-timeout"]),
        ("cloudhsm-cli user create --role ", ["crypto-user", "admin"]),
        ("cloudhsm-cli key list --filter attr.modulus-", ["attr.modulus-size-bits="]),
        ("cloudhsm-cli key list --filter attr.sign=t", ["true"]),
        (f"cloudhsm-cli user create --password {SECRET} --usern", ["--username"]),
        ("cloudhsm-cli nonsense ", []),
    ],
)
def test_bash_completes_cloudhsm_cli(line: str, wanted: list[str], tmp_path: Path) -> None:
    """What is on the line reaches the command on stdin, not in its environment or arguments."""
    command = tmp_path / "cloudhsm-cli"
    command.write_text(
        f"#!/bin/sh\ncat /proc/self/environ /proc/$$/cmdline > {tmp_path}/seen\n"
        f'exec {sys.executable} -c "{MAIN}" "$@"\n'
    )
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", 'source "$1"; IFS= read -r COMP_LINE; COMP_POINT=${#COMP_LINE}; '
         '_cloudhsm_cli_completion "$2"; printf "%s\n" "${COMPREPLY[@]}"',
         "bash", str(DIRECTORY / "cloudhsm-cli.bash"), str(command)],
        input=line + "\n", capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(DIRECTORY.parent)},
    )  # fmt: skip
    assert sorted(done.stdout.split()) == sorted(wanted), done.stderr
    assert SECRET not in (tmp_path / "seen").read_bytes().decode()


def test_version(run: Run) -> None:
    assert run("--version").out == f"cloister {__version__}\n"
