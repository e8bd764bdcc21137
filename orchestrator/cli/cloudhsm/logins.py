"""`login` and `logout`."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm.console import Console
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.cloudhsm.users import named_user, user_object
from orchestrator.cli.credentials import Login

SIGNED_QUESTION = "Enter signed token file path (press enter if same as the unsigned token file)"


def login(console: Console, given: Given) -> object:
    """Log in with a password."""
    name, role = named_user(given)
    cluster = console.cluster(given)
    console.log_in(cluster, Login(role, name, console.password(given)))
    return user_object(name, role)


def login_mfa(console: Console, given: Given) -> object:
    """Log in with a password and a second factor, which signs a token for each HSM."""
    from orchestrator.sealed.token_files import PossessionFile

    name, role = named_user(given)
    cluster, path = console.cluster(given), Path(given.text("--token"))
    password = console.password(given)
    issued = console.plane.mfa_challenges(cluster, role, name)
    files.renew(path, issued.pack())
    signed_path = console.ask_path(SIGNED_QUESTION, path)
    signed = PossessionFile.parse(files.read(signed_path), issued).complete()
    session = console.plane.login_mfa(cluster, role, name, password, signed)
    console.keep(cluster, session)
    return user_object(name, role)


def logout(console: Console, given: Given) -> object:
    """End the login on every HSM."""
    cluster = console.cluster(given)
    try:
        console.changes(given).logout()
    finally:
        console.forget(cluster)
    return "Logout successful"
