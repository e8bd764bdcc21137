"""What entries about users do to state n."""

from __future__ import annotations

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError
from orchestrator.model.object_decisions import object_shares_ended
from orchestrator.model.roles import (
    APPLIANCE_NAME,
    LOGIN_ROLES,
    Operation,
    Role,
    parse_user_name,
)
from orchestrator.model.rules import authorize, need
from orchestrator.model.state import Put, State, Table, User, user_row


def user_created(state: State, header: e.Header, change: e.UserCreated) -> tuple[Put, ...]:
    """Add a user, within the cluster's limits."""
    authorize(state, change.actor, Operation.CREATE_USER)
    need(change.role in LOGIN_ROLES, "role-rule", f"nobody is created as {change.role}")
    need(parse_user_name(change.name) == change.name, "name-rule", "names are lower-case")
    need(change.name != APPLIANCE_NAME, "name-rule", f"{APPLIANCE_NAME} is the appliance user's")
    name = user_row(change.role, change.name)
    users = state.tables[Table.USERS]
    need(name not in users, "exists", f"{change.role} {change.name} exists already")
    limit = state.meta.limits.users
    need(len(users) < limit, "limit", f"the cluster has its {limit} users; delete some")
    # Versions are places in the ledger: no ticket of an earlier user of this name is good again.
    user = User(change.name, change.role, change.password_hash, header.seq)
    return (Put(Table.USERS, name, user),)


def user_deleted(state: State, change: e.UserDeleted) -> tuple[Put, ...]:
    """Remove a user who may go."""
    authorize(state, change.actor, Operation.DELETE_USER)
    _require_deletable(state, change.role, change.name)
    gone = Put(Table.USERS, user_row(change.role, change.name), None)
    if change.role is Role.CRYPTO_USER:
        return (gone, *object_shares_ended(state, change.name))
    return (gone,)


def _require_deletable(state: State, role: Role, name: str) -> None:
    """Raise unless this user may be deleted: no owner of keys or objects, not the last admin."""
    need(role in LOGIN_ROLES, "role-rule", f"a user of role {role} cannot be deleted")
    state.user(role, name)
    if role is Role.CRYPTO_USER:
        owned = sum(1 for key in state.all_keys() if key.owner == name)
        need(owned == 0, "user-owns-keys", f"{role} {name} owns {owned} keys; delete them first")
        stored = sum(1 for each in state.objects() if each.owner == name)
        need(
            stored == 0,
            "user-owns-objects",
            f"{role} {name} owns {stored} certificates or data objects; delete them first",
        )
    elif sum(1 for user in state.users() if user.role is Role.ADMIN) == 1:
        raise RefusedError("last-admin", f"{name} is the last admin; create another first")


def password_changed(state: State, change: e.PasswordChanged) -> tuple[Put, ...]:
    """Set a password: ends the user's logins, and unlocks."""
    own = (change.actor.role, change.actor.name) == (change.role, change.name)
    operation = Operation.CHANGE_OWN_PASSWORD if own else Operation.CHANGE_OTHER_PASSWORD
    authorize(state, change.actor, operation)
    need(change.role in LOGIN_ROLES, "role-rule", f"a {change.role} has no password")
    user = state.user(change.role, change.name)
    changed = msgspec.structs.replace(
        user, password_hash=change.password_hash, version=user.version + 1, locked=False
    )
    return (Put(Table.USERS, user_row(user.role, user.name), changed),)


def user_locked(state: State, change: e.UserLocked) -> tuple[Put, ...]:
    """Lock a user, unless it is the last unlocked admin."""
    user = state.user(change.role, change.name)
    need(change.role in LOGIN_ROLES, "role-rule", f"a {change.role} cannot be locked")
    need(not user.locked, "exists", f"{change.role} {change.name} is locked already")
    others = (u for u in state.users() if u.role is Role.ADMIN and u.name != user.name)
    # A stranger who guesses passwords must not be able to shut the last officer out.
    need(
        change.role is not Role.ADMIN or any(not u.locked for u in others),
        "last-admin",
        f"{change.name} is the last unlocked admin, who is slowed and not locked",
    )
    locked = msgspec.structs.replace(user, locked=True)
    return (Put(Table.USERS, user_row(user.role, user.name), locked),)
