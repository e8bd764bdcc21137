"""Changes of users, of their logins and second factors."""

from __future__ import annotations

from typing import Final

from orchestrator.model.entries.record import Record
from orchestrator.model.roles import Role

LOGIN_LIFE_MS: Final = 24 * 60 * 60 * 1000


class Actor(Record):
    """The user whose log-in the author HSM verified."""

    name: str
    role: Role


class UserCreated(Record, tag="user-created"):
    """A new user with an Argon2id hash (PHC string)."""

    actor: Actor
    name: str
    role: Role
    password_hash: str


class UserDeleted(Record, tag="user-deleted"):
    """A user left, who owned no keys or whose keys go to crypto user `transfer_to`."""

    actor: Actor
    name: str
    role: Role
    transfer_to: str = ""


class PasswordChanged(Record, tag="password-changed"):
    """A new password: ends the user's logins, and unlocks."""

    actor: Actor
    name: str
    role: Role
    password_hash: str
    deregister_mfa: bool = False
    deregister_quorum: bool = False


class UserLocked(Record, tag="user-locked"):
    """The author counted the sixth wrong password."""

    name: str
    role: Role


class LoginEnded(Record, tag="login-ended"):
    """A log-out; remembered until the login's tickets could no longer be renewed (`until`, ms)."""

    actor: Actor
    login: str
    until: int


class UserUnlocked(Record, tag="user-unlocked"):
    """An admin ends a lock; password and logins stay."""

    actor: Actor
    name: str
    role: Role


class UserDisabled(Record, tag="user-disabled"):
    """A user may not log in, and all logins end; keys and password stay."""

    actor: Actor
    name: str
    role: Role


class UserEnabled(Record, tag="user-enabled"):
    """A disabled user may log in again."""

    actor: Actor
    name: str
    role: Role


class MfaChanged(Record, tag="mfa-changed"):
    """A second factor, proved as in ApprovalKeyRegistered; an empty `public` removes it.

    An empty `password_hash` leaves the password. Ends the user's logins.
    """

    actor: Actor
    name: str
    role: Role
    password_hash: str
    public: bytes
    approval_data: bytes
    signature: bytes
    change_quorum: bool


class LoginTicketIssued(Record, tag="login-ticket-issued"):
    """The actor lets Unix user `uid` log in as the actor, without second factor, until `until`."""

    actor: Actor
    login: str
    uid: int
    until: int


class LoginTicketRevoked(Record, tag="login-ticket-revoked"):
    """A login ticket is worth nothing any more."""

    actor: Actor
    login: str
