"""An operation of the control plane in a process that may be killed: HOME OPERATION ARGUMENT …"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from orchestrator.control.backups import Backups
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.recovery import Recovery
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.lab import sign_csr
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire.messages import KeyDraft

ADMIN, USER = b"admin-password", b"user-password-1"


def initialize(plane: ControlPlane, cluster: str) -> None:
    signed, anchor = sign_csr(plane.home, plane.csr(cluster))
    plane.initialize(cluster, signed.read_bytes(), anchor.read_bytes())


def key(plane: ControlPlane, cluster: str, label: str) -> int:
    draft = (KeyDraft(KeyClass.SECRET, label, (("encrypt", "true"), ("decrypt", "true"))),)
    with plane.login(cluster, Role.CRYPTO_USER, "user", USER) as session:
        changes = plane.changes(cluster, session)
        _, [made] = changes.generate_keys(KeySpec(KeyType.AES, 256), draft, request=label)
    return made.ref


def aim() -> None:
    """A fault that is meant for the controller is meant for this process."""
    marker = Path(os.environ.get("CLOISTER_FAULT", os.devnull))
    if marker.is_file() and (fault := marker.read_text()).endswith(" controller"):
        marker.write_text(fault.replace("controller", str(os.getpid())))


def main(home: str, operation: str, *arguments: str) -> None:
    aim()
    plane = ControlPlane.open(Path(home), LabHosts(Path(home)))
    result: object = None
    try:
        match operation, *arguments:
            case "first" | "join" | "restore", cluster, zone:
                result = Membership(plane).create(cluster, zone).hsm_id
            case "initialize", cluster:
                initialize(plane, cluster)
            case "key", cluster, label:
                result = key(plane, cluster, label)
            case "backup", cluster:
                result = Backups(plane).create(cluster).backup_id
            case "remove", cluster, hsm:
                Membership(plane).delete(cluster, hsm, force=True)
            case "recover", backup, *words:
                result = Recovery(plane).recover(backup, words, "lab-1a").cluster_id
            case _:
                raise ValueError(operation)
    finally:
        plane.close()
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
