"""Who is logged in: nobody gets past that, in either mode, and nothing is asked of an HSM."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from orchestrator.cli.cloudhsm.flags import ANYBODY
from orchestrator.cli.cloudhsm.main import main
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind
from orchestrator.cli.cloudhsm.tree import TREE
from tests.cli import scenarios
from tests.cli.stand_ins import PASSWORD, POSSESSION, StandIns

COMMANDS = {" ".join(path): command for path, command in TREE.commands()}
NEVER = ("clusters:mtls", "crypto:missing", "keys:generate_ml_dsa")  # refused for everybody
GUARDED = [
    name
    for name, command in COMMANDS.items()
    if command.who not in {ANYBODY, "unactivated-admin"}
    and command.action not in NEVER
    and name != "login mfa-token-sign"
]
VALUES = {
    "--data": "AAAA", "--path": "{tmp}/web.pem", "--public-key": "{tmp}/web.pem",
    "--signed-token": "{tmp}/reg", "--token": "{tmp}/token", "--key-length-bytes": "16",
    "--public-exponent": "65537", "--modulus-size-bits": "2048", "--tag-length-bits": "128",
    "--hash-function": "sha256", "--mgf": "mgf1-sha256", "--value": "2", "--iv": "00",
    "--salt-length": "32", "--generated": "600", "--signature": "AAAA",
}  # fmt: skip


def minimal(name: str, command: Command, tmp: Path) -> list[str]:
    """Return the shortest line that parses."""

    def value(flag: Flag) -> str:
        if "ec-public" in flag.choices:
            return "ec-public"
        usual = "attr.label=a" if flag.kind is Kind.LIST else "a"
        return VALUES.get(flag.name, (*flag.choices, usual)[0]).format(tmp=tmp)

    words = name.split()
    flags = [f for f in command.flags if f.is_required]
    flags += [f for group in command.one_of if (f := command.flag(group[0]))]
    for flag in flags:
        words += [flag.name] if flag.kind is Kind.SWITCH else [flag.name, value(flag)]
    return words


@pytest.fixture
def services(tmp_path: Path) -> StandIns:
    (tmp_path / "reg").write_text(POSSESSION.pack().decode())
    return StandIns(tmp_path)


def changes(services: StandIns) -> set[str]:
    return {call[0] for call in services.calls} - {"resolve", "close", "login", "close-session"}


@pytest.mark.parametrize("name", GUARDED)
def test_a_command_needs_a_login(
    name: str,
    services: StandIns,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = minimal(name, COMMANDS[name], tmp_path)
    for variable in ("CLOUDHSM_ROLE", "CLOUDHSM_PIN"):
        monkeypatch.delenv(variable, raising=False)
    if name in {"key import pem", "user change-quorum token-sign register"}:
        (tmp_path / "web.pem").write_text(scenarios.PEM)
    assert main(words, services) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error_code"] == 1
    assert "needs a login: set " in answer["data"]
    assert changes(services) == set()

    monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(words) + "\n"))
    assert main(["interactive"], services) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error_code"] == 1
    assert "log in to " in answer["data"]
    assert changes(services) == set()


@pytest.mark.parametrize(
    ("role", "pin", "message"),
    [
        ("boss", "alice:x", "CLOUDHSM_ROLE is admin or crypto-user"),
        (None, "alice:x", "set CLOUDHSM_ROLE to admin or crypto-user"),
        ("admin", "alice", "CLOUDHSM_PIN and PIN files have the form user:password"),
        ("admin", "a-b:x", "1 to 31 letters, digits and underscores"),
        ("admin", "admin:wrong", "user, role or password is wrong"),
    ],
)
def test_a_login_that_does_not_hold(
    role: str | None,
    pin: str,
    message: str,
    services: StandIns,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CLOUDHSM_ROLE", raising=False)
    if role is not None:
        monkeypatch.setenv("CLOUDHSM_ROLE", role)
    monkeypatch.setenv("CLOUDHSM_PIN", pin)
    assert main(["key", "list"], services) == 1
    answer = json.loads(capsys.readouterr().out)
    assert message in answer["data"]
    assert PASSWORD not in answer["data"]


def test_a_defect_is_an_answer_without_its_text(
    services: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    services.raises = RuntimeError("what it stumbled on")
    assert main(["user", "list"], services) == 1
    answer = json.loads(capsys.readouterr().out)
    assert "a defect in cloister: RuntimeError" in answer["data"]
    assert "stumbled" not in answer["data"]
