"""What a quorum can guard."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final


@unique
class Service(StrEnum):
    """What a quorum guards. The first six are CloudHSM's; `mfa` marks second factors only."""

    USER = "user"
    QUORUM = "quorum"
    CLUSTER = "cluster"
    KEY_USAGE = "key-usage"
    KEY_MANAGEMENT = "key-management"
    REGISTRATION = "registration"
    KEY_DELETE = "key-delete"
    BACKUP_RESTORE = "backup-restore"
    HSM_DELETE = "hsm-delete"
    CLUSTER_DELETE = "cluster-delete"
    SHARE_EXPORT = "share-export"
    MFA = "mfa"


KEY_SERVICES: Final = frozenset({Service.KEY_USAGE, Service.KEY_MANAGEMENT})
ADMIN_SERVICES: Final = frozenset(Service) - KEY_SERVICES - {Service.REGISTRATION, Service.MFA}
VALUED_SERVICES: Final = tuple(service for service in Service if service in ADMIN_SERVICES)
"""Services that have a cluster-wide value, in the order in which they are listed."""
