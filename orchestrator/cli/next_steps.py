"""What usually comes next in the life of a cluster. Pure; tables end with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from orchestrator.control.views import ClusterState, ClusterView, HostView

CREATE_CLUSTER = "cluster create"
CREATE_CRYPTO_USER = "user create --username alice --role crypto-user"
GENERATE_KEY = "key generate-symmetric aes --label my-key --key-length-bytes 32"
CREATE_SHARES = "recovery create-shares --threshold 3 --shares 5 --output-dir shares"
CREATE_BACKUP = "backup create"


def after(cluster: ClusterView, hosts: Sequence[HostView]) -> str:
    """Return the command that brings `cluster` one step on."""
    match cluster.state:
        case ClusterState.UNINITIALIZED:
            if cluster.hsms:
                return "lab sign-csr"
            return f"hsm create --az {cluster.availability_zones[0]}"
        case ClusterState.INITIALIZED:
            return "cluster activate"
        case ClusterState.ACTIVE | ClusterState.DEGRADED:
            return _grow(cluster, hosts)
        case ClusterState.CREATE_IN_PROGRESS:
            return f"recovery recover {cluster.source_backup_id}"
        case ClusterState.DELETED:
            return CREATE_CLUSTER
        case _:
            assert_never(cluster.state)


def _grow(cluster: ClusterView, hosts: Sequence[HostView]) -> str:
    covered = {hsm.availability_zone for hsm in cluster.hsms}
    for zone in cluster.availability_zones:
        if zone in covered:
            continue
        here = [host for host in hosts if host.availability_zone == zone]
        if here and not any(host.is_admitted for host in here):
            return f"host admit {here[0].host}"
        return f"hsm create --az {zone}"
    return CREATE_CRYPTO_USER
