"""`cloister user`: flags and roles of the CloudHSM CLI."""

from __future__ import annotations

from orchestrator.cli import credentials, next_steps
from orchestrator.cli.command import CHANGE, CLUSTER, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import LoginRole, PasswordStdinOption, RoleOption, UserOption
from orchestrator.model.roles import Role, parse_user_name

app = group("user", "Users: create, list, delete, change passwords.")


@command(app, "create", CHANGE)
def create(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
) -> None:
    """Create a user on every HSM (admin).

    Example:
      cloister user create --username alice --role crypto-user
    """
    name = parse_user_name(username)
    changes = call.changes(Role.ADMIN)
    password = credentials.new_password(name, from_stdin=password_stdin)
    change = changes.create_user(name, Role(role), password, request=call.request)
    is_crypto = role is LoginRole.CRYPTO_USER
    step = next_steps.GENERATE_KEY if is_crypto else next_steps.CREATE_CRYPTO_USER
    call.show({"username": name, "role": role, "change": change}, next_step=step)


@command(app, "list", CLUSTER)
def list_(call: Invocation) -> None:
    """List users; needs no login."""
    users = [
        {"username": user.name, "role": user.role, "locked": user.locked}
        for user in call.plane.users(call.cluster_id)
    ]
    call.show({"users": users})


@command(app, "delete", Needs(login=True, change=True, confirmation=True))
def delete(call: Invocation, *, username: UserOption, role: RoleOption) -> None:
    """Delete a user who owns no keys (admin)."""
    name = parse_user_name(username)
    call.confirm(f"Delete {role} {name}?")
    change = call.changes(Role.ADMIN).delete_user(name, Role(role), request=call.request)
    call.show({"username": name, "role": role, "change": change})


@command(app, "change-password", CHANGE)
def change_password(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
) -> None:
    """Set a password: your own, or as admin anybody's, which also unlocks.

    Example:
      cloister user change-password --username alice --role crypto-user
    """
    name = parse_user_name(username)
    changes = call.changes(Role.ADMIN)
    password = credentials.new_password(name, from_stdin=password_stdin)
    change = changes.change_password(name, Role(role), password, request=call.request)
    call.show({"username": name, "role": role, "change": change})
