"""Second factors and quorum keys: `user change-mfa`, `user change-quorum`."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm.console import Console, approval_of
from orchestrator.cli.cloudhsm.logins import SIGNED_QUESTION
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.cloudhsm.users import named_user, user_object


def change_mfa(console: Console, given: Given) -> object:
    """Enrol a key as second factor, or end it."""
    return _end(console, given) if given.has("--deregister") else _enrol(console, given)


def _end(console: Console, given: Given) -> object:
    name, role = named_user(given)
    changes = console.changes(given)
    wants_password = given.has("--change-password")
    changes.factors.remove(
        name,
        role,
        console.new_password(given, "--change-password") if wants_password else None,
        change_quorum=given.has("--change-quorum"),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return user_object(name, role)


def _enrol(console: Console, given: Given) -> object:
    from orchestrator.sealed.token_files import PossessionFile

    name, role = named_user(given)
    changes, path = console.changes(given), Path(given.text("--token"))
    password = console.new_password(given, "--change-password")
    issued = changes.factors.enrolment(name, role)
    files.renew(path, issued.pack())
    signed_path = console.ask_path(SIGNED_QUESTION, path)
    public_key = files.read(console.ask_path("Enter public key PEM file path"))
    changes.factors.set(
        name,
        role,
        password,
        public_key,
        PossessionFile.parse(files.read(signed_path), issued),
        change_quorum=given.has("--change-quorum"),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return user_object(name, role)


def register(console: Console, given: Given) -> object:
    """Register the key that the user who is logged in approves with."""
    from orchestrator.sealed.token_files import PossessionFile

    public_key = files.read(Path(given.text("--public-key")))
    signed = PossessionFile.parse(files.read(Path(given.text("--signed-token"))))
    session = console.session(given)
    changes = console.changes(given)
    changes.quorum.register(public_key, signed, request=given.maybe("--request"))
    return user_object(session.name, session.role)
