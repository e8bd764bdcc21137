"""Failures: exit status, one line or one JSON object on stderr, no secret in either."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import orchestrator.model
from orchestrator.cli import errors as cli_errors
from orchestrator.model import errors
from orchestrator.model.errors import OrchestratorError
from tests.cli.conftest import ADMIN, ALICE, Run
from tests.cli.stand_ins import PASSWORD, StandIns

SPECIAL: dict[type[OrchestratorError], OrchestratorError] = {
    errors.RefusedError: errors.RefusedError("some-code", "no"),
    errors.NotFoundError: errors.NotFoundError("key", "k"),
    errors.PermissionDeniedError: errors.PermissionDeniedError("admin", "sign"),
    errors.UserDisabledError: errors.UserDisabledError("admin", "bob"),
    errors.MfaRequiredError: errors.MfaRequiredError("admin", "bob"),
    errors.BehindError: errors.BehindError(1, 2),
    errors.PendingError: errors.PendingError("request-1", 1, 2),
    errors.RemoteError: errors.RemoteError("login-failed", "no", exit_status=4, retryable=False),
    errors.MechanismUnavailableError: errors.MechanismUnavailableError("p", "CKM_X"),
    cli_errors.InternalError: cli_errors.InternalError(ValueError()),
}


def every_error() -> Iterator[OrchestratorError]:
    for module in pkgutil.iter_modules(orchestrator.model.__path__, "orchestrator.model."):
        importlib.import_module(module.name)
    waiting = [OrchestratorError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind.__module__ in {errors.__name__, cli_errors.__name__}:
            yield SPECIAL[kind] if kind in SPECIAL else kind("no")


@pytest.mark.parametrize("error", list(every_error()), ids=lambda e: type(e).__name__)
def test_every_error_keeps_its_code_status_and_retryability(
    error: OrchestratorError, run: Run, services: StandIns
) -> None:
    services.raises = error
    outcome = run("cluster", "list", "--output", "json")
    assert (outcome.status, outcome.out) == (error.exit_status, "")
    assert outcome.error["code"] == error.code
    assert outcome.error["message"] == str(error)
    assert outcome.error["retryable"] is error.retryable
    outcome = run("cluster", "list")
    assert (outcome.status, outcome.out) == (error.exit_status, "")
    assert outcome.err == f"error: {error}\n"


def test_a_pending_change_names_its_request(run: Run, services: StandIns) -> None:
    services.raises = SPECIAL[errors.PendingError]
    outcome = run("cluster", "list", "--output=json")
    assert (outcome.status, outcome.error["request"]) == (6, "request-1")
    assert outcome.error["retryable"] is True


def test_a_defect_shows_neither_traceback_nor_what_it_quotes(run: Run, services: StandIns) -> None:
    services.raises = KeyError(PASSWORD)
    outcome = run("cluster", "list", "--output", "json")
    assert (outcome.status, outcome.error["code"]) == (70, "internal")
    assert PASSWORD not in outcome.err
    assert "Traceback" not in outcome.err
    assert "CLOISTER_DEBUG=1" in outcome.error["message"]


def test_the_traceback_can_be_had(
    run: Run, services: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.raises = KeyError("k")
    monkeypatch.setenv("CLOISTER_DEBUG", "1")  # after `run` has cleared it
    assert "Traceback" in run("cluster", "list").err


def test_interruption(run: Run, services: StandIns) -> None:
    services.raises = KeyboardInterrupt()
    assert run("cluster", "list").status == 130


def test_abort_is_a_refusal(run: Run, services: StandIns) -> None:
    services.raises = typer.Abort()
    outcome = run("cluster", "list", "--output", "json")
    assert (outcome.status, outcome.error["code"]) == (1, "cancelled")


@pytest.mark.parametrize(
    "arguments",
    [
        "cluster list --nonsense",
        "nonsense",
        "hsm create",
        "hsm create --az lab-1a surplus",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function md5 --data AA==",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function sha256",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function sha256 --data ?",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function sha256 --data SGVsbG9=",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function sha256 --data AA== "
        "--data-type digest",
        "crypto sign ecdsa --key-filter attr.label=a --hash-function sha256 --data AA== "
        "--salt-length 3",
        "crypto sign rsa-pkcs-pss --key-filter attr.label=a --hash-function sha256 --data AA==",
        "crypto sign rsa-pkcs-pss --key-filter attr.label=a --hash-function sha256 --data AA== "
        "--salt-length 3 --mgf mgf1-sha1",
        "key list --filter label=a",
        "key list --starting-token x",
        "key generate-symmetric aes --label a --key-length-bytes 16 --attributes sign",
        "user create --username a:b --role admin",
        "user create --username a --role unactivated-admin",
        "cluster initialize --signed-cert /nowhere --trust-anchor /nowhere",
        "recovery create-shares --threshold 3 --shares 2 --output-dir /nowhere",
        "recovery create-shares --threshold 2 --shares 3",
    ],
)
def test_wrong_usage(arguments: str, run: Run, services: StandIns) -> None:
    outcome = run(*arguments.split(), "--output", "json", login=ALICE)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.error["code"] == "usage"
    assert not outcome.error["retryable"]
    assert all(call[0] in {"login", "close", "close-session", "resolve"} for call in services.calls)
    outcome = run(*arguments.split(), login=ALICE)
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")


@pytest.mark.parametrize("flag", ["--password", "--password=hunter22", "--pin"])
def test_passwords_in_argv_are_refused_and_not_repeated(flag: str, run: Run) -> None:
    outcome = run("user", "create", "--username", "a", "--role", "admin", flag, "hunter22")
    assert outcome.status == 2
    assert "--password-stdin" in outcome.err
    assert "hunter22" not in outcome.err


DESTRUCTIVE: list[tuple[str, dict[str, Any]]] = [
    ("lab destroy", {}),
    ("cluster adopt", {}),
    ("cluster delete", {}),
    ("hsm delete hsm-b", {}),
    ("backup delete backup-c", {}),
    ("host expel host-1a", ADMIN),
    ("user delete --username a --role admin", ADMIN),
    ("key delete --filter attr.label=a", ALICE),
]


@pytest.mark.parametrize(("arguments", "login"), DESTRUCTIVE)
def test_destruction_needs_yes_off_a_terminal(
    arguments: str, login: dict[str, str], run: Run, services: StandIns
) -> None:
    harmless = {"login", "find", "close", "close-session", "resolve"}
    outcome = run(*arguments.split(), "--output", "json", login=login)
    assert (outcome.status, outcome.error["code"]) == (2, "confirmation-needed")
    assert {call[0] for call in services.calls} <= harmless
    assert run(*arguments.split(), "--yes", login=login).status == 0
    assert {call[0] for call in services.calls} - harmless


@pytest.mark.parametrize("command", ["cluster verify", "audit verify"])
def test_a_failed_check_shows_its_report_and_ends_with_1(
    command: str, run: Run, services: StandIns
) -> None:
    services.consistent = False
    outcome = run(*command.split(), "--output", "json")
    assert outcome.status == 1
    assert "is behind" in outcome.out
    assert outcome.json
    assert "is behind" in outcome.error["message"]
