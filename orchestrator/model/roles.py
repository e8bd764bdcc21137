"""Who may do what: CloudHSM's roles and its user permission table, as data.

Invariants: an admin cannot use a key; a crypto user cannot manage users; the appliance user
reads digests and moves sealed objects, and nobody logs in as it; without a log-in nothing that
is secret is read and no user, key or policy changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from orchestrator.model.errors import PermissionDeniedError, RefusedError, UsageError


class Role(StrEnum):
    """CloudHSM CLI names; NONE is a caller on an enrolled channel who has not logged in."""

    UNACTIVATED_ADMIN = "unactivated-admin"
    ADMIN = "admin"
    CRYPTO_USER = "crypto-user"
    APPLIANCE_USER = "internal(APPLIANCE_USER)"
    NONE = "none"


APPLIANCE_NAME: Final = "app_user"
LOGIN_ROLES: Final = frozenset({Role.ADMIN, Role.CRYPTO_USER})


class Operation(StrEnum):
    """Everything that can be asked of an HSM."""

    CLUSTER_INFO = "cluster-info"
    LIST_USERS = "list-users"
    LOGIN = "login"
    LOGOUT = "logout"
    INITIALIZE = "initialize"
    ACTIVATE = "activate"
    CHANGE_OWN_PASSWORD = "change-own-password"  # noqa: S105  # an operation's name
    CHANGE_OTHER_PASSWORD = "change-other-password"  # noqa: S105  # an operation's name
    CREATE_USER = "create-user"
    DELETE_USER = "delete-user"
    ADMIT_HOST = "admit-host"
    EXPEL_HOST = "expel-host"
    SET_RECOVERY_KEY = "set-recovery-key"
    UNLOCK_USER = "unlock-user"
    DISABLE_USER = "disable-user"
    TRANSFER_KEYS = "transfer-keys"
    REGISTER_APPROVAL_KEY = "register-approval-key"
    CHANGE_OWN_MFA = "change-own-mfa"
    CHANGE_OTHER_MFA = "change-other-mfa"
    LIST_QUORUM = "list-quorum"
    GENERATE_TOKEN = "generate-token"  # noqa: S105  # an operation's name
    DELETE_OWN_TOKENS = "delete-own-tokens"
    DELETE_ALL_TOKENS = "delete-all-tokens"
    SET_QUORUM = "set-quorum"
    APPROVE_KEY_USE = "approve-key-use"
    ISSUE_LOGIN_TICKET = "issue-login-ticket"
    LIST_LOGIN_TICKETS = "list-login-tickets"
    REVOKE_LOGIN_TICKET = "revoke-login-ticket"
    LIST_KEYS = "list-keys"
    GENERATE_KEY = "generate-key"
    DELETE_KEY = "delete-key"
    SIGN = "sign"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    MAC = "mac"
    VERIFY_MAC = "verify-mac"
    DERIVE_KEY = "derive-key"
    RANDOM = "random"
    SYNC = "sync"
    JOIN = "join"
    REMOVE_HSM = "remove-hsm"
    BACKUP = "backup"
    RESTORE = "restore"
    READ_AUDIT = "read-audit"
    ZEROIZE = "zeroize"
    IMPORT_CLEAR_KEY = "import-clear-key"
    COPY_KEY = "copy-key"
    LIST_OBJECTS = "list-objects"
    MANAGE_OBJECTS = "manage-objects"
    CHANGE_KEY = "change-key"
    TRUST_KEY = "trust-key"
    SHARE_KEY = "share-key"
    WRAP_KEY = "wrap-key"
    REPLICATE_KEY = "replicate-key"
    REPLICATE_USER = "replicate-user"
    UNWRAP_KEY = "unwrap-key"
    IMPORT_PUBLIC_KEY = "import-public-key"


_EVERYBODY: Final = frozenset({Role.ADMIN, Role.CRYPTO_USER, Role.APPLIANCE_USER, Role.NONE})
_LOGGED_IN: Final = LOGIN_ROLES
_ADMIN: Final = frozenset({Role.ADMIN})
_USER: Final = frozenset({Role.CRYPTO_USER})
_APPLIANCE: Final = frozenset({Role.APPLIANCE_USER})

GRANTS: Final[Mapping[Operation, frozenset[Role]]] = MappingProxyType(
    {
        Operation.CLUSTER_INFO: _EVERYBODY,
        Operation.LIST_USERS: _EVERYBODY,
        Operation.LOGIN: _EVERYBODY,
        Operation.LOGOUT: _LOGGED_IN,
        # The certificate proves itself, and PRECO has no password yet: the first to come activates.
        Operation.INITIALIZE: _APPLIANCE,
        Operation.ACTIVATE: frozenset({Role.UNACTIVATED_ADMIN}),
        Operation.CHANGE_OWN_PASSWORD: _LOGGED_IN,
        Operation.CHANGE_OTHER_PASSWORD: _ADMIN,
        Operation.CREATE_USER: _ADMIN,
        Operation.DELETE_USER: _ADMIN,
        Operation.ADMIT_HOST: _ADMIN,
        Operation.EXPEL_HOST: _ADMIN,
        Operation.SET_RECOVERY_KEY: _ADMIN,
        Operation.UNLOCK_USER: _ADMIN,
        Operation.DISABLE_USER: _ADMIN,
        Operation.TRANSFER_KEYS: _ADMIN,
        Operation.REGISTER_APPROVAL_KEY: _LOGGED_IN,
        Operation.CHANGE_OWN_MFA: _LOGGED_IN,
        Operation.CHANGE_OTHER_MFA: _ADMIN,
        Operation.LIST_QUORUM: _EVERYBODY,
        Operation.GENERATE_TOKEN: _LOGGED_IN,
        Operation.DELETE_OWN_TOKENS: _LOGGED_IN,
        Operation.DELETE_ALL_TOKENS: _ADMIN,
        Operation.SET_QUORUM: _ADMIN,
        Operation.APPROVE_KEY_USE: _USER,
        Operation.ISSUE_LOGIN_TICKET: _USER,
        Operation.LIST_LOGIN_TICKETS: _LOGGED_IN,
        Operation.REVOKE_LOGIN_TICKET: _LOGGED_IN,
        Operation.LIST_KEYS: _LOGGED_IN,
        Operation.GENERATE_KEY: _USER,
        Operation.DELETE_KEY: _USER,
        Operation.SIGN: _USER,
        Operation.ENCRYPT: _USER,
        Operation.DECRYPT: _USER,
        Operation.MAC: _USER,
        Operation.VERIFY_MAC: _USER,
        Operation.DERIVE_KEY: _USER,
        Operation.RANDOM: _USER,
        Operation.SYNC: _APPLIANCE,
        Operation.JOIN: _APPLIANCE,
        Operation.REMOVE_HSM: _APPLIANCE,
        Operation.BACKUP: _APPLIANCE,
        Operation.RESTORE: _APPLIANCE,
        Operation.READ_AUDIT: frozenset({Role.ADMIN, Role.APPLIANCE_USER}),
        Operation.ZEROIZE: _APPLIANCE,
        Operation.IMPORT_CLEAR_KEY: _USER,
        Operation.COPY_KEY: _USER,
        # Without a log-in, those that are not private.
        Operation.LIST_OBJECTS: _EVERYBODY,
        Operation.MANAGE_OBJECTS: _USER,
        Operation.CHANGE_KEY: _USER,
        Operation.TRUST_KEY: _ADMIN,
        Operation.SHARE_KEY: _USER,
        Operation.WRAP_KEY: _USER,
        Operation.REPLICATE_KEY: _LOGGED_IN,
        Operation.REPLICATE_USER: _ADMIN,
        Operation.UNWRAP_KEY: _USER,
        Operation.IMPORT_PUBLIC_KEY: _USER,
    }
)


NOT_WHEN_LENT: Final = frozenset(
    {
        Operation.CHANGE_OWN_PASSWORD,
        Operation.CHANGE_OWN_MFA,
        Operation.REGISTER_APPROVAL_KEY,
        Operation.ISSUE_LOGIN_TICKET,
    }
)
"""What a login ticket does not do for whoever holds it: it must not become the login itself."""


def require(role: Role, operation: Operation) -> None:
    """Raise PermissionDeniedError unless the table grants `operation` to `role`."""
    if role not in GRANTS[operation]:
        raise PermissionDeniedError(role, operation)


_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,31}\Z")


def parse_user_name(text: str) -> str:
    """Return the name in lower case: at most 31 letters, digits and underscores."""
    if not _NAME.match(text):
        raise UsageError(f"user name {text!r}: 1 to 31 letters, digits and underscores are allowed")
    return text.lower()


def check_password(password: bytes) -> bytes:
    """Return `password`, or raise RefusedError: 8 to 32 characters of UTF-8 (quotas, 2026)."""
    try:
        length = len(password.decode())
    except UnicodeDecodeError as exc:
        raise RefusedError("password-rule", "the password is not UTF-8 text") from exc
    if not 8 <= length <= 32:
        raise RefusedError("password-rule", "a password has 8 to 32 characters")
    return password
