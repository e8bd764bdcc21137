"""Backups of a former type of HSM, and of the former format, become clusters of today."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.control.plane import ControlPlane
from orchestrator.control.recovery import Recovery
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.errors import RefusedError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import SignScheme
from orchestrator.model.roles import Role
from orchestrator.sealed.snapshot import FORMAT_VERSION, parse_snapshot

pytestmark = pytest.mark.softhsm
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    home = tmp_path / "home"
    lab.up(home, 1)
    opened = ControlPlane.open(home, LabHosts(home))
    try:
        yield opened
    finally:
        opened.close()
        lab.destroy(home, include_backups=True)


@pytest.mark.parametrize("name", sorted(p.stem for p in FIXTURES.glob("*.backup")))
def test_an_old_backup_is_restored(plane: ControlPlane, name: str) -> None:
    told = json.loads((FIXTURES / f"{name}.json").read_text())
    file = FIXTURES / f"{name}.backup"
    assert parse_snapshot(file.read_bytes()).manifest.version == told["format_version"]
    backups = Backups(plane)
    view = backups.import_(file)
    assert (view.backup_id, view.hsm_type) == (told["backup_id"], told["hsm_type"])
    assert view.digest == told["digest"]
    assert backups.verify(view.backup_id).opened_by == ""  # no HSM of the family lives
    cluster = Recovery(plane).recover(view.backup_id, told["shares"][1:], "lab-1a")
    assert cluster.hsm_type == "hsm2m.medium"
    with plane.login(
        cluster.cluster_id, Role.CRYPTO_USER, told["user"], told["password"].encode()
    ) as alice:
        aes = alice.find_key(KeyFilter(attributes=(("label", "aes"),)))
        sealed = base64.b64decode(told["ciphertext"])
        assert alice.decrypt(aes.ref, sealed, b"fixture") == b"kept over the years"
        for label, scheme in (("rsa", SignScheme.RSA_PKCS), ("ec", SignScheme.ECDSA)):
            key = alice.key(label)
            assert key.public.hex() == told["publics"][label]
            signature = alice.sign_data(key, b"signed today", scheme)
            alice.verify_data(key, b"signed today", signature, scheme)
    assert Inspection(plane).verify(cluster.cluster_id).is_consistent
    again = backups.create(cluster.cluster_id, "of today")
    manifest = backups.read(again.backup_id)[1].manifest
    assert (manifest.version, manifest.reason) == (FORMAT_VERSION, "of today")
    assert manifest.hsm_type == "hsm2m.medium"
    assert backups.verify(again.backup_id).opened_by


def test_types_go_forward_and_modes_stay(plane: ControlPlane) -> None:
    newer = json.loads((FIXTURES / "hsm2m-format-1.json").read_text())
    Backups(plane).import_(FIXTURES / "hsm2m-format-1.backup")
    before = plane.records.clusters()
    backup, words = newer["backup_id"], newer["shares"]
    refusals: dict[str, Callable[[], object]] = {
        "hsm-type": lambda: Recovery(plane).recover(backup, words, "lab-1a", "hsm1.medium"),
        "hsm-type ": lambda: plane.create_cluster("hsm1.medium", (), None, backup),
        "mode": lambda: plane.create_cluster("hsm2m.medium", (), "NON_FIPS", backup),
    }
    for code, action in refusals.items():
        with pytest.raises(RefusedError) as caught:
            action()
        assert caught.value.code == code.strip()
    assert plane.records.clusters() == before
