"""`login` and `logout`."""

from __future__ import annotations

from orchestrator.cli.cloudhsm.console import Console, not_offered_yet, parse_role
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.credentials import Login
from orchestrator.model.roles import parse_user_name


def login(console: Console, given: Given) -> object:
    """Log in with a password."""
    role, name = parse_role(given), parse_user_name(given.text("--username"))
    cluster = console.cluster(given)
    console.log_in(cluster, Login(role, name, console.password(given)))
    return {"username": name, "role": role}


def logout(console: Console, given: Given) -> object:
    """End the login on every HSM."""
    cluster = console.cluster(given)
    try:
        console.changes(given).logout()
    finally:
        console.forget(cluster)
    return "Logout successful"


def login_mfa(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)
