"""`user`: create, delete, list, passwords."""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm.console import Console, approval_of, parse_role
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.model.roles import Role, parse_user_name

_TOKEN_SIGN: Final = {"strategy": "token-sign", "status": "enabled"}


def create(console: Console, given: Given) -> object:
    """Make a user on every HSM."""
    name, role = named_user(given)
    changes = console.changes(given)
    changes.create_user(
        name,
        role,
        console.new_password(given),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return user_object(name, role)


def delete(console: Console, given: Given) -> object:
    """Delete a user who owns no keys."""
    name, role = named_user(given)
    heir = given.maybe("--transfer-to")
    console.changes(given).delete_user(
        name,
        role,
        transfer_to=parse_user_name(heir) if heir is not None else "",
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return user_object(name, role)


def change_password(console: Console, given: Given) -> object:
    """Set a password, which also unlocks."""
    name, role = named_user(given)
    changes = console.changes(given)
    changes.change_password(
        name,
        role,
        console.new_password(given),
        deregister_mfa=given.has("--deregister-mfa"),
        deregister_quorum=given.has("--deregister-quorum"),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return user_object(name, role)


def list_users(console: Console, given: Given) -> object:
    """List users; `locked` is a string, as the original has it."""
    return {
        "users": [
            {
                "username": user.name,
                "role": user.role,
                "locked": str(user.locked).lower(),
                "mfa": [_TOKEN_SIGN] if user.mfa else [],
                "quorum": [_TOKEN_SIGN] if user.quorum else [],
                "cluster-coverage": "full",
            }
            for user in console.plane.users(console.cluster(given))
        ]
    }


def named_user(given: Given) -> tuple[str, Role]:
    """Return whom --username and --role name."""
    return parse_user_name(given.text("--username")), parse_role(given)


def user_object(name: str, role: Role) -> dict[str, object]:
    """Return what commands show of a user."""
    return {"username": name, "role": role}


def replicate(console: Console, given: Given) -> object:
    """Copy a user to a clone."""
    name, role = named_user(given)
    console.replication(given).replicate_user(name, role, approval=approval_of(given))
    return {"user": user_object(name, role), "message": "Successfully replicated user"}
