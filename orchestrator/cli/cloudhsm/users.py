"""`user`: create, delete, list, passwords."""

from __future__ import annotations

from orchestrator.cli.cloudhsm.console import Console, not_offered_yet, parse_role
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.model.roles import Role, parse_user_name


def create(console: Console, given: Given) -> object:
    """Make a user on every HSM."""
    name, role = _user(given)
    changes = console.changes(given)
    changes.create_user(name, role, console.new_password(given), request=given.maybe("--request"))
    return _shown(name, role)


def delete(console: Console, given: Given) -> object:
    """Delete a user who owns no keys."""
    name, role = _user(given)
    console.changes(given).delete_user(name, role, request=given.maybe("--request"))
    return _shown(name, role)


def change_password(console: Console, given: Given) -> object:
    """Set a password, which also unlocks."""
    name, role = _user(given)
    changes = console.changes(given)
    changes.change_password(
        name, role, console.new_password(given), request=given.maybe("--request")
    )
    return _shown(name, role)


def list_users(console: Console, given: Given) -> object:
    """List users; `locked` is a string, as the original has it."""
    return {
        "users": [
            {
                "username": user.name,
                "role": user.role,
                "locked": str(user.locked).lower(),
                "mfa": [],
                "quorum": [],
                "cluster-coverage": "full",
            }
            for user in console.plane.users(console.cluster(given))
        ]
    }


def _user(given: Given) -> tuple[str, Role]:
    return parse_user_name(given.text("--username")), parse_role(given)


def _shown(name: str, role: Role) -> dict[str, object]:
    return {"username": name, "role": role}


def replicate(_console: Console, given: Given) -> object:
    """Say that it is missing."""
    raise not_offered_yet(given)
