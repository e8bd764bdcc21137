"""Who acts: environment, file; nothing of it is left where a child or a reader could find it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.cli.credentials import GivenLogin, Login, find_login
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.roles import Role
from tests.cli.conftest import ADMIN, ALICE, Run
from tests.cli.stand_ins import CLUSTER, PASSWORD, StandIns


def test_the_environment_says_who_acts_and_is_cleared(run: Run, services: StandIns) -> None:
    outcome = run("login-check", "--output", "json", login=ALICE)
    assert outcome.json == {"cluster_id": CLUSTER, "username": "alice", "role": "crypto-user"}
    assert ("login", Role.CRYPTO_USER, "alice", PASSWORD.encode()) in services.calls
    assert not {"CLOUDHSM_ROLE", "CLOUDHSM_PIN"} & os.environ.keys()
    assert ("close-session",) in services.calls
    assert services.calls[-1] == ("close",)


def test_the_environment_is_cleared_also_when_nobody_logs_in(run: Run) -> None:
    run("--nonsense", login=ALICE)
    assert not {"CLOUDHSM_ROLE", "CLOUDHSM_PIN"} & os.environ.keys()


def test_a_wrong_password_is_a_login_error_that_does_not_repeat_it(run: Run) -> None:
    pin = {"CLOUDHSM_ROLE": "admin", "CLOUDHSM_PIN": "admin:hunter22"}
    outcome = run("login-check", "--output", "json", login=pin)
    assert (outcome.status, outcome.error["code"]) == (4, "login-failed")
    assert "hunter22" not in outcome.err


@pytest.mark.parametrize("command", ["login-check", "key list", "host admit host-1b"])
def test_no_credentials_and_no_terminal(command: str, run: Run) -> None:
    outcome = run(*command.split(), "--output", "json")
    assert (outcome.status, outcome.error["code"]) == (4, "login-needed")
    assert "CLOUDHSM_PIN" in outcome.error["message"]


def test_a_command_knows_its_natural_role(run: Run, services: StandIns) -> None:
    run("key", "list", login={"CLOUDHSM_PIN": f"alice:{PASSWORD}"})
    run("host", "admit", "host-1b", login={"CLOUDHSM_PIN": f"admin:{PASSWORD}"})
    assert [c[1] for c in services.calls if c[0] == "login"] == [Role.CRYPTO_USER, Role.ADMIN]
    assert run("login-check", login={"CLOUDHSM_PIN": f"admin:{PASSWORD}"}).status == 4
    assert run("key", "list", login={"CLOUDHSM_ROLE": "boss"}).status == 2


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_pin_file_wins_over_the_environment(
    ending: str, run: Run, services: StandIns, tmp_path: Path
) -> None:
    path = write(tmp_path / "pin", f"Bob:{PASSWORD}{ending}")
    assert run("key", "list", "--pin-file", str(path), login=ALICE).status == 0
    assert ("login", Role.CRYPTO_USER, "bob", PASSWORD.encode()) in services.calls


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [
        (f"bob:{PASSWORD}", 0o640, "pin-file-open"),
        (f"bob:{PASSWORD}", 0o604, "pin-file-open"),
        (PASSWORD, 0o600, "login-needed"),
        (f"bob:{PASSWORD}\nmore\n", 0o600, "usage"),
    ],
)
def test_a_pin_file_that_will_not_do(
    text: str, mode: int, code: str, run: Run, tmp_path: Path
) -> None:
    path = write(tmp_path / "pin", text, mode)
    outcome = run("key", "list", "--output", "json", "--pin-file", str(path))
    assert outcome.error["code"] == code
    assert PASSWORD not in outcome.err


def test_a_pin_file_is_a_regular_file_of_text(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(write(tmp_path / "pin", f"bob:{PASSWORD}"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    binary = tmp_path / "binary"
    binary.write_bytes(b"bob:\xff\xfe")
    binary.chmod(0o600)
    for path in (link, fifo, binary, tmp_path, tmp_path / "none"):
        with pytest.raises(OrchestratorError) as refused:
            find_login(GivenLogin(), path, Role.ADMIN)
        assert refused.value.exit_status == 2
        assert refused.value.__cause__ is None or not isinstance(
            refused.value.__cause__, UnicodeDecodeError
        )


def test_a_password_may_hold_colons() -> None:
    login = find_login(GivenLogin("admin", "Admin:a:b:c"), None, None)
    assert (login.name, login.password) == ("admin", b"a:b:c")


def test_secrets_do_not_print() -> None:
    shown = repr(Login(Role.ADMIN, "admin", b"hunter22")) + repr(GivenLogin("admin", "a:hunter22"))
    assert "hunter22" not in shown


@pytest.mark.parametrize("stdin", ["new-password", "new-password\n", "new-password\r\nmore\n"])
def test_a_new_password_is_the_first_line_of_stdin(
    stdin: str, run: Run, services: StandIns
) -> None:
    create = "user create --username Bob --role crypto-user --password-stdin --request r1"
    assert run(*create.split(), login=ADMIN, stdin=stdin).status == 0
    assert ("create_user", "bob", Role.CRYPTO_USER, b"new-password", None, "r1") in services.calls


def test_new_passwords_follow_the_rule_before_anything_is_asked(
    run: Run, services: StandIns
) -> None:
    activate = run("cluster", "activate", "--password-stdin", "--output", "json", stdin="short\n")
    assert (activate.status, activate.error["code"]) == (1, "password-rule")
    assert run("cluster", "activate").status == 4
    assert "activate" not in {call[0] for call in services.calls}
