"""The control plane's database: locked, read-only, garbage, edited. Each says what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.control import database
from orchestrator.control.database import open_database
from orchestrator.control.ledger import Ledger
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.records import Records
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.errors import (
    OrchestratorError,
    RefusedError,
    TamperedError,
    UnavailableError,
)
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from tests.stateful.harness import CLUSTER, LocalCluster

HSM_TYPE = "hsm2m.medium"
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    Layout(made).prepare(2)
    return made


@pytest.fixture
def plane(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    made = ControlPlane.open(home, LabHosts(home))
    yield made
    made.close()


def locked(home: Path) -> sqlite3.Connection:
    """Another process's connection, in the middle of a change."""
    other = sqlite3.connect(home / "control.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other


def create(plane: ControlPlane) -> str:
    return plane.create_cluster(HSM_TYPE, (), None, None).cluster_id


def test_a_locked_database_is_waited_for_and_then_said_so(plane: ControlPlane, home: Path) -> None:
    kept = create(plane)
    with closing(locked(home)) as other:
        with pytest.raises(UnavailableError, match=r"control\.db is locked .*try again") as caught:
            create(plane)
        assert caught.value.retryable
        assert [row.cluster_id for row in plane.records.clusters()] == [kept]  # reading goes on
        changes: list[Callable[[], object]] = [
            lambda: plane.delete_cluster(kept),
            plane.controller(kept).ledger.erase,
            lambda: Membership(plane).create(kept, "lab-1a"),
        ]
        for change in changes:
            with pytest.raises(UnavailableError):
                change()
        other.execute("ROLLBACK")
    assert [row.cluster_id for row in plane.records.clusters()] == [kept]
    assert plane.records.hsms() == []
    assert list((home / "lab" / "hosts").rglob("hsm-*")) == []
    create(plane)
    assert len(plane.records.clusters()) == 2


def test_a_locked_ledger_leaves_a_change_unmade_and_askable_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    cluster = LocalCluster(tmp_path)
    try:
        before = cluster.ledger.head()
        admit = m.AdmitHost("host-9", bytes(32))
        admin = cluster.login(Role.ADMIN, "admin")

        def change() -> int:
            made = cluster.controller.change(lambda _: admit, ticket=admin, request="once")
            return made.report.seq

        with closing(locked(tmp_path)) as other:
            with pytest.raises(UnavailableError, match="try again"):
                change()
            other.execute("ROLLBACK")
        assert cluster.ledger.head() == before
        assert change() == before.seq + 1
        assert change() == before.seq + 1  # the same one
    finally:
        cluster.close()


def test_a_new_database_that_another_process_holds(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    with closing(locked(home)), pytest.raises(UnavailableError, match="locked"):
        open_database(home / "control.db")
    open_database(home / "control.db").dispose()


def test_a_new_database_that_many_open_at_once(tmp_path: Path) -> None:
    opened: list[object] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        together.wait(10)
        try:
            open_database(path).dispose()
            opened.append("done")
        except OrchestratorError as exc:
            opened.append(exc)

    for turn in range(10):
        path, together = tmp_path / f"{turn}.db", threading.Barrier(8)
        threads = [threading.Thread(target=open_it, args=(path, together)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert opened == ["done"] * 80


GARBAGE = {
    "text": b"this is no database, though it is long enough to be taken for one " * 20,
    "zeros": bytes(8192),
    "cut header": b"SQLite format 3\0" + b"\x10",
    "noise behind a header": b"SQLite format 3\0" + bytes(range(256)) * 40,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_database_and_stays_for_inspection(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(content)
    with pytest.raises(TamperedError, match=r"move it away.*cluster adopt") as caught:
        open_database(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "script",
    [
        "PRAGMA user_version=2",
        "PRAGMA user_version=-1",
        "CREATE TABLE clusters (name TEXT); PRAGMA user_version=1",
    ],
)
def test_a_database_of_another_kind(tmp_path: Path, script: str) -> None:
    path = tmp_path / "control.db"
    with closing(sqlite3.connect(path)) as other:
        other.executescript(script)

    def use() -> None:
        engine = open_database(path)
        try:
            Records(engine).clusters()
        finally:
            engine.dispose()

    with pytest.raises(TamperedError, match=r"control\.db"):
        use()


def test_pages_that_rot_are_found_when_they_are_read(home: Path) -> None:
    engine = open_database(home / "control.db")
    engine.dispose()
    path = home / "control.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(TamperedError, match="move it away"):
        Records(open_database(path)).clusters()


@pytest.mark.parametrize("kind", ["directory", "link to nowhere", "no directory"])
def test_a_path_where_no_database_can_be(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "control.db"
    match kind:
        case "directory":
            path.mkdir()
        case "link to nowhere":
            path.symlink_to(tmp_path / "none" / "control.db")
        case _:
            path = tmp_path / "none" / "control.db"
    with pytest.raises(RefusedError, match="cannot be opened") as caught:
        open_database(path)
    assert caught.value.code == "database-access"
    assert not (tmp_path / "none").exists()


def test_the_database_is_its_owners_alone(home: Path) -> None:
    open_database(home / "control.db").dispose()
    for path in home.glob("control.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


AS_NOBODY = """
import sys
from pathlib import Path
from orchestrator.control.plane import ControlPlane
from orchestrator.lab.hosts import LabHosts
from orchestrator.model.errors import OrchestratorError
home = Path(sys.argv[1])
try:
    plane = ControlPlane.open(home, LabHosts(home))
    print(len(plane.records.clusters()))
    plane.create_cluster("hsm2m.medium", (), None, None)
except OrchestratorError as exc:
    print(exc.code, exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda home: (home / "control.db").chmod(0o400),
        lambda home: os.chown(home / "control.db", 0, 0),
        lambda home: home.chmod(0o500),
    ],
    ids=["read-only", "another's", "read-only directory"],
)
def test_a_database_that_may_not_be_written(
    plane: ControlPlane, home: Path, spoil: Callable[[Path], None]
) -> None:
    create(plane)
    plane.close()
    with tempfile.TemporaryDirectory() as reachable:  # pytest's own is root's alone
        Path(reachable).chmod(0o755)
        copy = Path(reachable) / "home"
        shutil.copytree(home, copy)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        spoil(copy)
        before = (copy / "control.db").read_bytes()
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(copy)],
            user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": reachable},
        )  # fmt: skip
        assert "Traceback" not in ran.stderr
        assert ran.stdout.splitlines()[-1].startswith("database-access ")
        assert str(copy / "control.db") in ran.stdout
        assert (copy / "control.db").read_bytes() == before


# --- edited rows ---


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the ledger of an active cluster."""
    directory = tmp_path_factory.mktemp("written")
    LocalCluster(directory).close()
    return directory / "control.db"


ROW_EDITS = {
    "header edited": "UPDATE entries SET header ="
    " CAST(substr(header, 1, 20) || x'00' || substr(header, 22) AS BLOB) WHERE seq = 4",
    "header cut": "UPDATE entries SET header = substr(header, 1, 20) WHERE seq = 4",
    "header emptied": "UPDATE entries SET header = x'' WHERE seq = 4",
    "header as text": "UPDATE entries SET header = 'text' WHERE seq = 4",
    "header as number": "UPDATE entries SET header = 7 WHERE seq = 4",
    "signature of another": "UPDATE entries SET signature ="
    " (SELECT signature FROM entries WHERE seq = 3) WHERE seq = 4",
    "signature cut": "UPDATE entries SET signature = substr(signature, 2) WHERE seq = 4",
    "entry of another row": "UPDATE entries SET (header, signature, body) ="
    " (SELECT header, signature, body FROM entries WHERE seq = 3) WHERE seq = 4",
    "rows swapped": "UPDATE entries SET seq = -seq WHERE seq IN (4, 5);"
    "UPDATE entries SET seq = 9 + seq WHERE seq < 0",
    "request of another": "UPDATE entries SET request = 'other' WHERE seq = 4",
    "row removed": "DELETE FROM entries WHERE seq = 4",
    "row moved up": "DELETE FROM entries WHERE seq = 4;UPDATE entries SET seq = 4 WHERE seq = 5",
    "hash edited": "UPDATE entries SET hash = zeroblob(32) WHERE seq = 4",
    "prev edited": "UPDATE entries SET prev = hash WHERE seq = 4",
}


@pytest.mark.parametrize("edit", ROW_EDITS.values(), ids=ROW_EDITS)
def test_an_edited_ledger_names_the_row(tmp_path: Path, written: Path, edit: str) -> None:
    path = tmp_path / "control.db"
    shutil.copy(written, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(edit)
    engine = open_database(path)
    try:
        with pytest.raises(TamperedError, match=r"row 4|rows 3 and 5"):
            Ledger(engine, CLUSTER).check()
    finally:
        engine.dispose()


def test_a_request_id_finds_no_other_requests_entry(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "control.db"
    shutil.copy(written, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE entries SET request = 'mine' WHERE seq = 4")
    engine = open_database(path)
    try:
        with pytest.raises(TamperedError, match="row 4"):
            Ledger(engine, CLUSTER).find("mine")
    finally:
        engine.dispose()


def test_the_untouched_ledger_is_whole(written: Path) -> None:
    engine = open_database(written)
    Ledger(engine, CLUSTER).check()
    engine.dispose()


def test_every_error_of_sqlite_is_one_of_ours(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "control.db")
    with engine.connect() as db, pytest.raises(OrchestratorError):
        db.exec_driver_sql("SELECT * FROM nothing")
    engine.dispose()
