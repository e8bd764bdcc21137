"""`--help` and completion: every command has them, and nothing heavy is loaded for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.scenarios import SCENARIOS, all_commands
from tests.cli.stand_ins import BACKUP, CLUSTER, HSM

HEAVY = ("cryptography", "sqlalchemy", "rich", "argon2", "shamir_mnemonic", "pkcs11", "asyncio")
PROBE = """
import sys
from orchestrator.cli.main import main
try:
    main({arguments})
except SystemExit:
    pass
print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def probe(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )


def test_the_command_names_are_the_contract() -> None:
    assert set(all_commands()) == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_has_help_and_takes_output(name: str, run: Run) -> None:
    outcome = run(*name.split(), "--help")
    assert outcome.status == 0
    assert "--output <table|json>" in outcome.out
    text = (all_commands()[name].help or "").splitlines()
    assert text
    assert text[0].strip() in outcome.out


@pytest.mark.parametrize("arguments", [("--help",), ("crypto", "sign", "ecdsa", "--help")])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert probe(*arguments).stderr.strip() == "loaded:"


@pytest.mark.parametrize(("words", "shown"), [("", "cluster"), ("cluster", "initialize")])
def test_a_group_without_a_command_shows_its_help(words: str, shown: str, run: Run) -> None:
    outcome = run(*words.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert shown in outcome.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cloister cl", "cluster"),
        ("cloister user create --role c", "crypto-user"),
        ("cloister key generate-asymmetric-pair ec --curve p", "prime256v1"),
        ("cloister cluster describe --cluster-id cl", CLUSTER),
        ("cloister hsm delete h", HSM),
        ("cloister hsm create --az l", "lab-1a"),
        ("cloister host admit h", "host-1a"),
        ("cloister backup verify b", BACKUP),
        ("cloister cluster create --hsm-type hsm2", "hsm2m.medium"),
    ],
)
def test_completion(words: str, expected: str, tmp_path: Path) -> None:
    host = tmp_path / "lab" / "hosts" / "host-1a"
    (host / "hsms" / HSM).mkdir(parents=True)
    (host / "zone").write_text("lab-1a\n")
    (tmp_path / "clusters" / CLUSTER).mkdir(parents=True)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / f"{BACKUP}.backup").touch()
    found = probe(
        _CLOISTER_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
        CLOISTER_HOME=str(tmp_path),
    )
    assert expected in found.stdout.split()
    assert "sqlalchemy" not in found.stderr


def test_completion_is_silent_about_a_home_that_is_not_there(tmp_path: Path) -> None:
    found = probe(
        _CLOISTER_COMPLETE="complete_bash",
        COMP_WORDS="cloister hsm delete h",
        COMP_CWORD="3",
        CLOISTER_HOME=str(tmp_path / "none"),
    )
    assert found.stdout.strip() == ""
    assert found.stderr.startswith("loaded:")


def test_the_openssl_lines_of_initialize_sign_a_csr(run: Run, tmp_path: Path) -> None:
    text = run("cluster", "initialize", "--help").out.replace("\\\n", " ")
    lines = re.findall(r"^\s*(openssl .*)$", text, re.MULTILINE)
    assert len(lines) == 3
    request = "openssl req -new -newkey rsa:2048 -noenc -keyout k -subj /CN=c -out cluster.csr"
    for line in [request, *lines, "openssl verify -CAfile ca.crt cluster.crt"]:
        # The passphrase would be asked for on the terminal.
        pass_in = ["-passin", "pass:demo"] if "ca.key" in line and "genrsa" not in line else []
        pass_out = ["-passout", "pass:demo"] if "genrsa" in line else []
        program, verb, *rest = line.split()
        argv = [program, verb, *pass_in, *pass_out, *rest]
        subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
