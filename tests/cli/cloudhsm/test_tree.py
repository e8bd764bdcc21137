"""The tree is the original's; all that is made from it agrees with it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from orchestrator.cli.cloudhsm.help_text import help_text
from orchestrator.cli.cloudhsm.parser import HelpRequest, parse
from orchestrator.cli.cloudhsm.syntax import Command, Kind
from orchestrator.cli.cloudhsm.tree import INTERACTIVE, PROGRAM, SINGLE, TREE
from tests.cli.cloudhsm import reference, transcripts

WRAPS = (
    "aes-gcm", "aes-no-pad", "aes-pkcs5-pad", "aes-zero-pad", "cloudhsm-aes-gcm", "rsa-aes",
    "rsa-oaep", "rsa-pkcs",
)  # fmt: skip
SIGNS = ("ecdsa", "ed25519", "ed25519ph", "ml-dsa", "rsa-pkcs", "rsa-pkcs-pss")
NAMES = {  # Client SDK 5.18
    *(f"cluster {name}" for name in ("activate", "hsm-info")),
    *(
        f"cluster mtls {name}"
        for name in (
            "register-trust-anchor", "list-trust-anchors", "deregister-trust-anchor",
            "get-enforcement", "set-enforcement",
        )
    ),
    *(f"crypto {verb} {name}" for verb in ("sign", "verify") for name in SIGNS),
    *(f"key {name}" for name in ("delete", "generate-file", "import pem", "list", "replicate")),
    *(f"key {name}" for name in ("set-attribute", "share", "unshare")),
    *(f"key generate-asymmetric-pair {name}" for name in ("rsa", "ec", "ml-dsa")),
    *(f"key generate-symmetric {name}" for name in ("aes", "generic-secret")),
    *(f"key {verb} {name}" for verb in ("wrap", "unwrap") for name in WRAPS),
    "login", "login mfa-token-sign", "logout",
    *(
        f"quorum token-sign {name}"
        for name in ("delete", "generate", "list", "list-quorum-values", "set-quorum-value")
    ),
    "quorum token-sign list-timeouts", "quorum token-sign set-timeout",  # the guide of 2023
    "user change-mfa token-sign", "user change-quorum token-sign register",
    *(f"user {name}" for name in ("change-password", "create", "delete", "list", "replicate")),
    "interactive",
}  # fmt: skip
COMMANDS = {" ".join(path): command for path, command in TREE.commands()}


def test_the_commands_are_those_of_the_original() -> None:
    assert set(COMMANDS) == NAMES
    assert TREE.child("help") is not None
    assert (SINGLE.child("quit"), INTERACTIVE.child("interactive")) == (None, None)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_function(name: str) -> None:
    module, _, function = COMMANDS[name].action.partition(":")
    act = getattr(import_module(f"orchestrator.cli.cloudhsm.{module}"), function)
    assert len(inspect.signature(act).parameters) == (1 if name == "interactive" else 2)
    assert COMMANDS[name].who


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_every_command_has_help(name: str, word: str) -> None:
    words = ["help", *name.split()] if word == "help" else [*name.split(), word]
    parsed = parse(TREE, words, PROGRAM)
    assert isinstance(parsed, HelpRequest)
    text = help_text(TREE, PROGRAM, parsed.path, is_long=parsed.is_long)
    assert text.startswith(COMMANDS[name].summary)
    assert f"Usage: {PROGRAM} {name.partition(' ')[0]}" in text
    for flag in COMMANDS[name].flags:
        assert flag.shown in text
        assert all(choice in text for choice in flag.choices)


def _flags(command: Command) -> list[str]:
    own = [f.name for f in command.flags]
    return own + [n for child in command.children for n in _flags(child)]


def test_flags_are_told_apart() -> None:
    for command in COMMANDS.values():
        names = [f.name for f in command.flags]
        assert len(names) == len(set(names))
        for group in command.one_of:
            assert all(command.flag(n) for n in group)
            assert not any(f.is_required for n in group if (f := command.flag(n)))
    lists = {f.name for c in COMMANDS.values() for f in c.flags if f.kind is Kind.LIST}
    assert {"--filter", "--attributes", "--share-crypto-users"} <= lists


def test_the_reference_is_made_from_the_tree() -> None:
    assert reference.DOCUMENT.read_text().endswith(reference.generate())


def test_the_transcripts_show_every_command() -> None:
    shown = set()
    for step in transcripts.STEPS:
        words = [w for w in step.line.split() if not w.startswith("{")]
        for name in COMMANDS:
            if words[: len(name.split())] == name.split():
                shown.add(name)
        if "mfa-token-sign" in words:
            shown.add("login mfa-token-sign")
    assert set(COMMANDS) - shown == {"interactive"}


def test_help_loads_nothing_heavy() -> None:
    heavy = ("cryptography", "sqlalchemy", "typer", "rich", "prompt_toolkit", "asyncio", "pkcs11")
    code = (
        "import sys; from orchestrator.cli.cloudhsm.main import main; main(['help', 'key']);"
        f"print('loaded:', *(n for n in {heavy} if n in sys.modules), file=sys.stderr)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stderr.strip() == "loaded:"
