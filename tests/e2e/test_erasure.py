"""What is deleted does not live on: not in the ledger, nor in an HSM's state, after a snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.lab import lab
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.model.state import key_row
from tests.e2e.crash_driver import USER, key
from tests.e2e.test_forks import Site
from tests.lab.harness import eventually

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "home", "ab")
    yield made
    made.close()


def holders(home: Path, wanted: bytes) -> set[str]:
    """Return the files below `home` that hold these bytes, or a good part of them."""
    middle = wanted[len(wanted) // 3 : len(wanted) // 3 + 40]
    assert len(middle) == 40
    found = set()
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and middle in path.read_bytes():
            found.add(path.name.removesuffix("-wal"))
    return found


def sealed_rows(site: Site, ref: int) -> list[bytes]:
    rows = []
    for host, hsm in zip(("host-1a", "host-1b"), site.hsms, strict=True):
        directory = site.plane.infrastructure.hsm_directory(host, hsm)
        with sqlite3.connect(directory / "state.db") as db:
            found = db.execute("SELECT sealed FROM rows WHERE name=?", (key_row(ref),)).fetchone()
        rows.append(bytes(found[0]))
    return rows


def test_a_deleted_key_is_gone_after_the_next_snapshot(site: Site) -> None:
    ref = key(site.plane, site.cluster, "doomed")
    kept = key(site.plane, site.cluster, "kept")
    ledger = site.plane.controller(site.cluster).ledger
    body = ledger.after((ref >> 16) - 1, 1)[0].body
    rows = sealed_rows(site, ref)
    assert holders(site.home, body) == {"control.db", "state.db"}
    assert all(holders(site.home, row) == {"state.db"} for row in rows)
    with site.plane.login(site.cluster, Role.CRYPTO_USER, "user", USER) as user:
        site.plane.changes(site.cluster, user).delete_key(ref)
    assert holders(site.home, body) == {"control.db", "state.db"}  # till the snapshot
    made = Backups(site.plane).create(site.cluster)
    for gone in (body, *rows):
        assert holders(site.home, gone) == set()
    # The chain is whole, and whoever asks again for a key that lives still gets its answer.
    assert Inspection(site.plane).verify(site.cluster).is_consistent
    assert ledger.head().seq >= made.seq
    assert key(site.plane, site.cluster, "kept") == kept
    assert site.labels() == ["kept"]


def test_a_deleted_object_is_gone_after_the_next_snapshot(site: Site) -> None:
    draft = ObjectDraft(object_class=ObjectClass.DATA, label="doomed", value=bytes(range(200)))
    with site.plane.login(site.cluster, Role.CRYPTO_USER, "user", USER) as user:
        changes = site.plane.changes(site.cluster, user)
        _, ref = changes.put_object(draft)
        body = site.plane.controller(site.cluster).ledger.after((ref >> 16) - 1, 1)[0].body
        rows = sealed_rows(site, ref)
        assert holders(site.home, draft.value) == set()  # sealed wherever it is
        assert holders(site.home, body) == {"control.db", "state.db"}
        changes.delete_object(ref)
        assert user.list_objects(ObjectFilter()).total == 0
    Backups(site.plane).create(site.cluster)
    for gone in (body, *rows):
        assert holders(site.home, gone) == set()
    assert Inspection(site.plane).verify(site.cluster).is_consistent


def test_nothing_is_erased_that_a_member_still_needs(site: Site) -> None:
    away = site.hsms[1]
    made = key(site.plane, site.cluster, "later")
    lab.kill(site.home, away)
    Backups(site.plane).create(site.cluster)
    ledger = site.plane.controller(site.cluster).ledger
    assert ledger.after((made >> 16) - 1, 1)[0].body, "erased though a member was out of reach"
    lab.start(site.home, away)
    eventually(lambda: ledger.after((made >> 16) - 1, 1)[0].is_erased, 15)  # now everybody has it
    assert Inspection(site.plane).verify(site.cluster).is_consistent
