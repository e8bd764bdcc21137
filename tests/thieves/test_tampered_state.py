"""Rows moved, dropped, swapped or put back in a real HSM's state: it does not start."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from orchestrator.agent.main import EXIT_BROKEN
from orchestrator.control.inspection import Inspection
from orchestrator.lab import demo, lab
from orchestrator.model.roles import Role
from tests.thieves.harness import members, socket_of

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
CU1, CU2 = "crypto-user/cu1", "crypto-user/cu2"
REPLACED: Final = "rows of the HSM's state are missing, added or replaced"


@dataclass
class Victim:
    """An HSM that is down, its state as it was left, an older one, and that of another HSM."""

    job: demo.Demo
    hsm: str
    directory: Path
    now: Path
    older: Path
    other: Path

    def lay(self, state: Path) -> None:
        """Put a state in place."""
        for path in self.directory.glob("state.db*"):
            path.unlink()
        shutil.copy(state, self.directory / "state.db")

    def start(self) -> tuple[int, str]:
        """Start the agent, which must end by itself; return its status and what it noted."""
        for name in ("trouble", "agent.sock"):  # what the killed agent left
            (self.directory / name).unlink(missing_ok=True)
        argv = [sys.executable, "-m", "orchestrator.agent", str(self.directory)]
        done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
        return done.returncode, (self.directory / "trouble").read_text().strip()


def copy(directory: Path, target: Path) -> Path:
    """Copy a state whole, whether an agent has it open or not."""
    with sqlite3.connect(directory / "state.db") as source, sqlite3.connect(target) as db:
        source.backup(db)
    source.close()
    db.close()
    return target


@pytest.fixture(scope="module")
def victim(active: demo.Demo, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """Users changed since the older copy: cu2 has another password, `gone` is gone."""
    scratch = tmp_path_factory.mktemp("states")
    hsm, other, _ = members(active)
    directory = socket_of(active, hsm).parent
    with active.plane.login(active.cluster, Role.ADMIN, "admin", active.passwords["admin"]) as co:
        changes = active.plane.changes(active.cluster, co)
        changes.create_user("gone", Role.CRYPTO_USER, b"password-1")
        older = copy(directory, scratch / "older")
        changes.change_password("cu2", Role.CRYPTO_USER, b"password-2")
        changes.delete_user("gone", Role.CRYPTO_USER)
    lab.kill(active.home, hsm)
    now = copy(directory, scratch / "now")
    theirs = copy(socket_of(active, other).parent, scratch / "other")
    return Victim(active, hsm, directory, now, older, theirs)


Damage = Callable[[sqlite3.Connection], object]


def sql(statement: str, *values: object) -> Damage:
    return lambda db: _one(db.execute(statement, values))


def _one(done: sqlite3.Cursor) -> None:
    assert done.rowcount >= 1, "nothing was damaged"


def swap(db: sqlite3.Connection) -> None:
    """Exchange two users' rows, places and all."""
    query = "SELECT seq, sealed FROM rows WHERE tab='users' AND name=?"
    rows = {name: db.execute(query, (name,)).fetchone() for name in (CU1, CU2)}
    for name, source in ((CU1, CU2), (CU2, CU1)):
        sql("UPDATE rows SET seq=?, sealed=? WHERE tab='users' AND name=?", *rows[source], name)(db)


def take(source: str, table: str, where: str) -> Damage:
    """Put rows of another database in place of one's own."""
    return sql(f"INSERT OR REPLACE INTO {table} SELECT * FROM {source}.{table} WHERE {where}")  # noqa: S608


DAMAGES: Final[dict[str, tuple[Damage, str]]] = {
    "moved to another name": (
        sql("UPDATE rows SET name='crypto-user/thief' WHERE name=?", CU1),
        "row users/crypto-user/thief/",
    ),
    "moved to another table": (
        sql("UPDATE rows SET tab='hosts' WHERE tab='users' AND name=?", CU1),
        f"row hosts/{CU1}/",
    ),
    "written over another": (
        sql("UPDATE rows SET sealed=(SELECT sealed FROM rows WHERE name=?) WHERE name=?", CU1, CU2),
        f"row users/{CU2}/",
    ),
    "two swapped": (swap, "row users/crypto-user/cu"),
    "another HSM's row": (take("other", "rows", f"name='{CU1}'"), f"row users/{CU1}/"),
    "another HSM's head": (take("other", "local", "name='head'"), "row local/head"),
    "text in place of bytes": (
        sql("UPDATE rows SET sealed=hex(sealed) WHERE tab='meta'"),
        "row meta/only/",
    ),
    "a user dropped": (sql("DELETE FROM rows WHERE name=?", CU1), REPLACED),
    "all rows dropped": (sql("DELETE FROM rows"), REPLACED),
    "an old password put back": (take("older", "rows", f"name='{CU2}'"), REPLACED),
    "a deleted user put back": (take("older", "rows", "name='crypto-user/gone'"), REPLACED),
    "an older head put back": (take("older", "local", "name='head'"), REPLACED),
    "no head": (sql("DELETE FROM local WHERE name='head'"), "rows and no head"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_changed_state_is_refused_by_its_place(victim: Victim, how: str) -> None:
    damage, where = DAMAGES[how]
    victim.lay(victim.now)
    db = sqlite3.connect(victim.directory / "state.db", isolation_level=None)
    try:
        db.execute("ATTACH ? AS older", (str(victim.older),))
        db.execute("ATTACH ? AS other", (str(victim.other),))
        damage(db)
    finally:
        db.close()
    status, trouble = victim.start()
    assert status == EXIT_BROKEN
    assert trouble.startswith("tampered: ")
    assert where in trouble
    assert not (victim.directory / "agent.sock").exists()


def test_the_others_keep_serving(victim: Victim) -> None:
    victim.lay(victim.now)
    with sqlite3.connect(victim.directory / "state.db") as db:
        sql("DELETE FROM rows WHERE name=?", CU1)(db)
    db.close()
    victim.start()
    job = victim.job
    view = next(v for v in job.plane.hsms(job.cluster) if v.hsm_id == victim.hsm)
    assert (view.state, REPLACED in view.trouble) == ("DEGRADED", True)
    with job.plane.login(job.cluster, Role.CRYPTO_USER, "cu1", job.passwords["cu1"]) as session:
        assert len(session.random(8)) == 8
        changes = job.plane.changes(job.cluster, session)
        report, _ = changes.generate_keys(demo._AES, demo._secret("made while one was refused"))
        assert report.held == 2


def test_the_state_as_it_was_serves_and_catches_up(victim: Victim) -> None:
    victim.lay(victim.now)
    lab.start(victim.job.home, victim.hsm)
    victim.job.plane.controller(victim.job.cluster).heal()
    report = Inspection(victim.job.plane).verify(victim.job.cluster)
    assert (report.is_consistent, len(report.hsms)) == (True, 3)
