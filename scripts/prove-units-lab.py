"""Make an active cluster of two HSMs with crypto user `cu`, and print its id."""

import os
import secrets
import sys
from pathlib import Path

from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.roles import Role

home = Path(os.environ["CLOISTER_HOME"]) / "."
lab.up(home, 2)
plane = ControlPlane.open(home, LabHosts(home))
membership = Membership(plane)
cluster = plane.create_cluster("hsm2m.medium", (), "NON_FIPS", None).cluster_id
membership.create(cluster, "lab-1a")
signed, anchor = lab.sign_csr(home, plane.csr(cluster))
plane.initialize(cluster, signed.read_bytes(), anchor.read_bytes())
password = secrets.token_urlsafe(12).encode()
plane.activate(cluster, password)
with plane.login(cluster, Role.ADMIN, "admin", password) as admin:
    changes = plane.changes(cluster, admin)
    changes.create_user("cu", Role.CRYPTO_USER, b"password-1")
    changes.admit_host("host-1b")
membership.create(cluster, "lab-1b")
plane.close()
sys.stdout.write(f"{cluster}\n")
