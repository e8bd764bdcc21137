"""Another process holds the database for a minute: use goes on, changes say so and work again."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.control.backups import Backups
from orchestrator.control.inspection import Inspection
from orchestrator.lab import lab
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.roles import Role
from tests.e2e.crash_driver import ADMIN, USER
from tests.e2e.test_forks import Site

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]
LOCKED_S = 60


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "home", "ab")
    yield made
    made.close()


def test_a_database_that_is_locked_for_a_minute(site: Site) -> None:
    plane, told = site.plane, dict[str, OrchestratorError | None]()
    user = plane.login(site.cluster, Role.CRYPTO_USER, "user", USER)
    admin = plane.login(site.cluster, Role.ADMIN, "admin", ADMIN)
    before = plane.controller(site.cluster).ledger.head()
    pids = [agent.pid for agent in lab.status(site.home).agents]

    def change() -> None:
        try:
            plane.changes(site.cluster, admin).create_user("late", Role.CRYPTO_USER, USER)
        except OrchestratorError as exc:
            told["change"] = exc

    def back_up() -> None:
        try:
            Backups(plane).create(site.cluster)
        except OrchestratorError as exc:
            told["backup"] = exc

    with closing(sqlite3.connect(site.home / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        threads = [threading.Thread(target=target) for target in (change, back_up)]
        for thread in threads:
            thread.start()
        used = 0
        while time.monotonic() - began < LOCKED_S:
            assert user.random(8)  # the use of keys and log-ins ask no database
            used += 1
            time.sleep(0.5)
        with plane.login(site.cluster, Role.CRYPTO_USER, "user", USER):
            pass
        for thread in threads:
            thread.join()
        other.execute("ROLLBACK")
    assert used > LOCKED_S
    assert told.keys() == {"change", "backup"}
    for refusal in told.values():
        assert refusal is not None
        assert refusal.retryable
        assert "is locked" in str(refusal)
    # Nothing is half made, and nobody has died of it.
    assert plane.controller(site.cluster).ledger.head() == before
    assert [agent.pid for agent in lab.status(site.home).agents] == pids
    assert plane.changes(site.cluster, admin).create_user("late", Role.CRYPTO_USER, USER).held == 2
    made = Backups(plane).create(site.cluster)
    assert {view.state for view in Backups(plane).list()} == {"READY"}
    on_disk = sorted(path.stem for path in (site.home / "backups").iterdir())
    assert on_disk == sorted(view.backup_id for view in Backups(plane).list())
    assert made.backup_id in on_disk
    assert Inspection(plane).verify(site.cluster).is_consistent
    user.close()
    admin.close()
