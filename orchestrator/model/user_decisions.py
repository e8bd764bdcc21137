"""What entries about users do to state n."""

from __future__ import annotations

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.ownership import check_heir, left_behind, shares_ended
from orchestrator.model.quorum_decisions import check_not_stranded
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
    """Remove a user who may go; the keys of a crypto user may go to another."""
    authorize(state, change.actor, Operation.DELETE_USER)
    role, name, to = change.role, change.name, change.transfer_to
    need(role in LOGIN_ROLES, "role-rule", f"a user of role {role} cannot be deleted")
    user = state.user(role, name)
    gone = Put(Table.USERS, user_row(role, name), None)
    if role is Role.ADMIN:
        need(not to, "usage", "an admin owns no keys to transfer")
        _check_admins_left(state, user)
        return (gone,)
    owned = sum(1 for key in state.all_keys() if key.owner == name)
    need(
        owned == 0 or bool(to),
        "user-owns-keys",
        f"{role} {name} owns {owned} keys; delete them first, or name who gets them: "
        "`--transfer-to USER`",
    )
    stored = sum(1 for each in state.objects() if each.owner == name)
    need(
        stored == 0 or bool(to),
        "user-owns-objects",
        f"{role} {name} owns {stored} certificates or data objects; delete them first, or name who "
        "gets them: `--transfer-to USER`",
    )
    if to:
        check_heir(state, name, to)
    # Whoever is made later under this name must not find what was shared with it before.
    return (gone, *left_behind(state, name, to), *shares_ended(state, name))


def is_able_admin(user: User) -> bool:
    """Tell whether this is an admin who can log in."""
    return user.role is Role.ADMIN and not user.locked and not user.disabled


def _check_admins_left(state: State, leaving: User) -> None:
    others = [u for u in state.users() if u.role is Role.ADMIN and u.name != leaving.name]
    need(
        any(is_able_admin(u) for u in others),
        "last-admin",
        f"{leaving.name} is the last admin; create another first",
    )
    check_not_stranded(state, sum(1 for u in others if not u.disabled))


def password_changed(state: State, change: e.PasswordChanged) -> tuple[Put, ...]:
    """Set a password: ends the user's logins, and unlocks."""
    own = (change.actor.role, change.actor.name) == (change.role, change.name)
    operation = Operation.CHANGE_OWN_PASSWORD if own else Operation.CHANGE_OTHER_PASSWORD
    authorize(state, change.actor, operation)
    need(change.role in LOGIN_ROLES, "role-rule", f"a {change.role} has no password")
    user = state.user(change.role, change.name)
    changed = msgspec.structs.replace(
        user,
        password_hash=change.password_hash,
        version=user.version + 1,
        locked=False,
        mfa_key=b"" if change.deregister_mfa else user.mfa_key,
        quorum_key=b"" if change.deregister_quorum else user.quorum_key,
    )
    return (_put_user(changed),)


def user_locked(state: State, change: e.UserLocked) -> tuple[Put, ...]:
    """Lock a user, unless it is the last unlocked admin."""
    user = state.user(change.role, change.name)
    need(change.role in LOGIN_ROLES, "role-rule", f"a {change.role} cannot be locked")
    need(not user.locked, "exists", f"{change.role} {change.name} is locked already")
    # A stranger who guesses passwords must not be able to shut the last officer out.
    need(
        change.role is not Role.ADMIN or has_other_able_admin(state, user),
        "last-admin",
        f"{change.name} is the last unlocked admin, who is slowed and not locked",
    )
    return (_put_user(msgspec.structs.replace(user, locked=True)),)


def has_other_able_admin(state: State, user: User) -> bool:
    """Tell whether another admin than `user` can log in."""
    return any(is_able_admin(u) and u.name != user.name for u in state.users())


def user_unlocked(state: State, change: e.UserUnlocked) -> tuple[Put, ...]:
    """End a lock, and the count of wrong passwords."""
    authorize(state, change.actor, Operation.UNLOCK_USER)
    user = _login_user(state, change.role, change.name)
    # One that is counted here and not yet entered is ended as well: an unlocked user is no error.
    return (_put_user(msgspec.structs.replace(user, locked=False, unlocks=user.unlocks + 1)),)


def user_disabled(state: State, change: e.UserDisabled) -> tuple[Put, ...]:
    """Let a user log in no more, and end all logins."""
    authorize(state, change.actor, Operation.DISABLE_USER)
    user = _login_user(state, change.role, change.name)
    need(not user.disabled, "exists", f"{change.role} {change.name} is disabled already")
    if user.role is Role.ADMIN:
        _check_admins_left(state, user)
    return (_put_user(msgspec.structs.replace(user, disabled=True, version=user.version + 1)),)


def user_enabled(state: State, change: e.UserEnabled) -> tuple[Put, ...]:
    """Let a disabled user log in again."""
    authorize(state, change.actor, Operation.DISABLE_USER)
    user = _login_user(state, change.role, change.name)
    need(user.disabled, "exists", f"{change.role} {change.name} is not disabled")
    return (_put_user(msgspec.structs.replace(user, disabled=False)),)


def _login_user(state: State, role: Role, name: str) -> User:
    need(role in LOGIN_ROLES, "role-rule", f"a {role} does not log in")
    return state.user(role, name)


def _put_user(user: User) -> Put:
    return Put(Table.USERS, user_row(user.role, user.name), user)
