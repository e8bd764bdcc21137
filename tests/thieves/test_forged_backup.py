"""A backup of the thief's own making, restored by a clone that has the real masking key.

Blobs stand in clear in ledger rows and in manifests. Whoever runs the control plane can have an
HSM on an admitted host cloned, and give it a backup whose state names him as a user, and the
cluster's own certificate key as his key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.client.connection import expect
from orchestrator.control.backups import Backups
from orchestrator.lab import demo, lab
from orchestrator.model import entries as e
from orchestrator.model.ids import new_id
from orchestrator.model.key_spec import (
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.roles import Role
from orchestrator.sealed.snapshot import MAGIC, Manifest
from orchestrator.wire import messages as m
from tests.thieves.harness import (
    PASSWORD,
    Caller,
    FalseCluster,
    ask,
    ask_for,
    challenge,
    code_of,
    members,
    new_hsm,
)

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
REF = 0x10000
SPEC = KeySpec(KeyType.RSA, 2048, None, 65537)


@dataclass
class Forgery:
    """What the thief took from database and backups, and what he makes of it."""

    job: demo.Demo
    false: FalseCluster
    manifest: Manifest
    first: e.ClusterCreated

    def key(self) -> Key:
        """Return the cluster's certificate key as a user's key."""
        return Key(
            ref=REF,
            key_class=KeyClass.PRIVATE,
            spec=SPEC,
            label="loot",
            id=b"",
            owner="cu1",
            shared=(),
            attributes=Attributes(token=True, private=True, sign=True),
            blob=self.first.certificate_key,
            public=self.first.cluster_public,
            check_value=b"",
        )

    def backup(self, name: str, meta: dict[str, object], manifest: dict[str, object]) -> bytes:
        """Return a backup that the real backup key opens; fields given replace the thief's own."""
        place: m.Welcome = ask_for(self.job, members(self.job)[0], m.Hello(), m.Welcome)
        real = {
            "backup_key": self.manifest.backup_key,
            "backup_public": self.manifest.backup_public,
        }
        row = self.false.meta(**real | {"certificate_key": self.first.certificate_key} | meta)
        state = self.false.state(row, place, keys=(self.key(),))
        recipient = self.manifest.backup_public
        return self.false.snapshot(state, "backup", name, recipient, **real | manifest)

    def clone(self) -> tuple[str, str]:
        """Have an HSM on an admitted host given the masking key; return it and its cluster's id."""
        cluster, hsm = new_id("cluster", os.urandom), new_hsm(self.job, "host-1b")
        donor = members(self.job)[0]
        start = m.JoinStart(cluster, challenge(self.job, donor))
        join = ask_for(self.job, hsm, start, m.SignedJoin).join
        granted = ask_for(self.job, donor, m.JoinGrant(join), m.Granted)
        ask(self.job, hsm, m.JoinAccept(granted.grant, ""))
        return cluster, hsm

    def restore(self, cluster: str, hsm: str, backup: bytes, name: str) -> None:
        """Give the clone a backup, and let it go on from there."""
        ask(self.job, hsm, m.Upload(name, 0, len(backup), backup))
        change = m.RestoreCluster(cluster, name)
        prepared = ask_for(self.job, hsm, m.Prepare(b"", "restore", change, 0), m.Prepared)
        ask(self.job, hsm, m.Apply((prepared.entry,)))

    def sign(self, hsm: str, data: bytes) -> bytes:
        """Sign with the cluster's certificate key, logged in as oneself."""
        with Caller(self.job, hsm) as caller:
            ticket = caller.login(Role.CRYPTO_USER, "cu1", PASSWORD)
            mechanism = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)
            digest = hashlib.sha256(data).digest()
            return expect(caller.call(m.Sign(ticket, 0, REF, mechanism, digest)), m.Data).data


@pytest.fixture(scope="module")
def robbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[demo.Demo, e.ClusterCreated]]:
    """An active cluster, and what its database held in clear when it was made."""
    made = demo.Demo(tmp_path_factory.mktemp("robbed") / "home", lambda _: None, lambda _: None)
    try:
        made.up()
        made.create()
        [entry] = made.plane.controller(made.cluster).ledger.after(0, 1)
        first, _ = e.decode_body(entry.body)
        assert isinstance(first, e.ClusterCreated)
        for step in (made.ceremony, made.join, made.users):
            step()
        yield made, first
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)


@pytest.fixture
def forgery(robbed: tuple[demo.Demo, e.ClusterCreated], tmp_path: Path) -> Forgery:
    """What a thief who reads the vault directory and the database has."""
    job, first = robbed
    backups = Backups(job.plane)
    _, real = backups.read(backups.create(job.cluster).backup_id)
    return Forgery(job, FalseCluster(tmp_path / "ca", job.cluster), real.manifest, first)


@pytest.mark.parametrize(
    "whose", ["all his own", "real within", "real without", "all but identity"]
)
def test_a_backup_of_ones_own_making_gives_no_key(forgery: Forgery, whose: str) -> None:
    real = forgery.manifest
    chain: dict[str, object] = {
        "cluster_public": real.cluster_public,
        "certificate": real.certificate,
        "trust_anchor": real.trust_anchor,
    }
    author: dict[str, object] = {"author": real.author, "credential": real.credential}
    within, without = {
        "all his own": ({}, {}),
        "real within": (chain, {}),
        "real without": ({}, chain),
        "all but identity": (chain, chain | author),
    }[whose]
    cluster, hsm = forgery.clone()
    name = new_id("backup", os.urandom)
    backup = forgery.backup(name, within, without)
    assert code_of(lambda: forgery.restore(cluster, hsm, backup, name)) == "tampered"
    assert code_of(lambda: forgery.sign(hsm, b"anything")) != ""
    assert ask_for(forgery.job, hsm, m.Hello(), m.Welcome).seq == 0


def test_a_backup_whose_rows_were_changed_is_refused(forgery: Forgery) -> None:
    backups = Backups(forgery.job.plane)
    real, _ = backups.read(forgery.manifest.id)
    cluster, hsm = forgery.clone()
    forged = forgery.backup(forgery.manifest.id, {}, {})
    # the real manifest with the thief's body, and the other way round
    for head, tail in ((real, forged), (forged, real)):
        spliced = _manifest_of(head) + _body_of(tail)
        change = lambda: forgery.restore(cluster, hsm, spliced, forgery.manifest.id)  # noqa: B023, E731
        assert code_of(change) == "tampered"
    assert ask_for(forgery.job, hsm, m.Hello(), m.Welcome).seq == 0


def test_a_genuine_backup_is_restored_by_the_same_steps(forgery: Forgery) -> None:
    real, _ = Backups(forgery.job.plane).read(forgery.manifest.id)
    cluster, hsm = forgery.clone()
    forgery.restore(cluster, hsm, real, forgery.manifest.id)
    assert ask_for(forgery.job, hsm, m.Hello(), m.Welcome).cluster == cluster


def test_a_clone_makes_no_cluster_of_the_thiefs_own(forgery: Forgery) -> None:
    cluster, hsm = forgery.clone()
    create = m.Prepare(b"", "create", m.CreateCluster(cluster, "FIPS"), 0)
    assert code_of(lambda: ask(forgery.job, hsm, create)) == "not-empty"


def _manifest_of(backup: bytes) -> bytes:
    return backup[: len(MAGIC) + 4 + int.from_bytes(backup[len(MAGIC) :][:4], "big")]


def _body_of(backup: bytes) -> bytes:
    return backup[len(_manifest_of(backup)) :]
