"""An HSM's own database, edited behind its back: it refuses to start and says where."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agent.vault import Vault
from orchestrator.control.inspection import AuditCheck, Inspection
from orchestrator.control.plane import ControlPlane
from orchestrator.model.entries import encode
from orchestrator.model.errors import OrchestratorError, TamperedError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.wire import messages as m
from tests.fakes.token_store import FakeTokenStore
from tests.hostile.wire import examples
from tests.stateful.harness import CLUSTER, LocalCluster

AES = KeySpec(KeyType.AES, 256)


class Kept:
    """The state file of an HSM that is down, before and after a change, and its token."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = LocalCluster(directory)
        self.machine = self.cluster.machines[0]
        for number in range(3):
            draft = m.KeyDraft(KeyClass.SECRET, f"key {number}")
            self.cluster.change(f"key-{number}", m.GenerateKeys(AES, (draft,)))
        self.machine.stop()
        self.earlier = self._copy("earlier.db")
        self.machine.start()
        self.cluster.change("drop", m.DeleteKey(self.refs()[0]))
        self.machine.stop()
        self.latest = self._copy("latest.db")

    def refs(self) -> list[int]:
        assert self.machine.hsm is not None
        return [key.ref for key in self.machine.hsm.core.state.all_keys()]

    def _copy(self, name: str) -> Path:
        copy = self.directory / name
        with closing(sqlite3.connect(self.machine.path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self.machine.path, copy)
        return copy

    @property
    def token(self) -> FakeTokenStore:
        return self.machine.store.crashed()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory.mktemp("kept"))
    yield made
    made.cluster.close()


def load(path: Path, token: FakeTokenStore) -> None:
    vault = Vault(path, token)
    try:
        vault.load()
    finally:
        vault.close()


def edit(source: Path, target: Path, script: str, other: Path | None = None) -> Path:
    shutil.copy(source, target)
    with closing(sqlite3.connect(target)) as db:
        if other is not None:
            db.execute("ATTACH ? AS other", (str(other),))
        (first,) = db.execute("SELECT MIN(name) FROM rows WHERE tab = 'keys'").fetchone()
        db.create_function("first", 0, lambda: first)
        db.create_function("forged", 1, forged)
        db.executescript(script)
    return target


def test_the_untouched_file_loads(kept: Kept, tmp_path: Path) -> None:
    load(edit(kept.latest, tmp_path / "state.db", ""), kept.token)
    load(edit(kept.earlier, tmp_path / "state.db", ""), kept.token)


ROW_EDITS = {
    "a row dropped": ("DELETE FROM rows WHERE name = first()", "missing"),
    "a table emptied": ("DELETE FROM rows WHERE tab = 'users'", "missing"),
    "all rows dropped": ("DELETE FROM rows", "missing"),
    "a row under another's name": (
        "UPDATE rows SET (sealed, seq) = (SELECT sealed, seq FROM rows WHERE name = first())"
        " WHERE tab = 'keys' AND name != first()",
        "row keys/",
    ),
    "a row renamed": ("UPDATE rows SET name = 'ff' WHERE name = first()", "row keys/ff/"),
    "a row in another table": (
        "UPDATE rows SET tab = 'logins' WHERE name = first()",
        "row logins/",
    ),
    "a row in a table that is none": (
        "UPDATE rows SET tab = 'x' WHERE name = first()",
        "row x/",
    ),
    "a row at another place": (
        "UPDATE rows SET seq = seq + 1 WHERE name = first()",
        "row keys/",
    ),
    "a seal cut": (
        "UPDATE rows SET sealed = substr(sealed, 1, 20) WHERE name = first()",
        "row keys/",
    ),
    "a seal emptied": ("UPDATE rows SET sealed = x'' WHERE name = first()", "row keys/"),
    "the head dropped": ("DELETE FROM local WHERE name = 'head'", "no head"),
    "the head's seal in another place": (
        "UPDATE local SET sealed = (SELECT sealed FROM local WHERE name = 'audit-head')"
        " WHERE name = 'head'",
        "row local/head",
    ),
    "the audit head's seal in another place": (
        "UPDATE local SET sealed = (SELECT sealed FROM local WHERE name = 'head')"
        " WHERE name = 'audit-head'",
        "row local/audit-head",
    ),
    "another format": ("PRAGMA user_version = 2", "format version 2"),
}


@pytest.mark.parametrize(("script", "said"), ROW_EDITS.values(), ids=ROW_EDITS)
def test_an_edited_state_is_refused(kept: Kept, tmp_path: Path, script: str, said: str) -> None:
    path = edit(kept.latest, tmp_path / "state.db", script)
    with pytest.raises(TamperedError, match=said):
        load(path, kept.token)


OLD_ROWS = {
    "a deleted row put back": (
        "INSERT INTO rows SELECT * FROM other.rows AS o WHERE tab = 'keys'"
        " AND NOT EXISTS (SELECT 1 FROM rows AS n WHERE n.tab = o.tab AND n.name = o.name)",
        "added",
    ),
    "an older head": (
        "UPDATE local SET sealed = (SELECT sealed FROM other.local WHERE name = 'head')"
        " WHERE name = 'head'",
        "missing, added or replaced",
    ),
    "older rows under the newer head": (
        "DELETE FROM rows; INSERT INTO rows SELECT * FROM other.rows",
        "replaced",
    ),
}


@pytest.mark.parametrize(("script", "said"), OLD_ROWS.values(), ids=OLD_ROWS)
def test_what_was_true_once_is_refused(kept: Kept, tmp_path: Path, script: str, said: str) -> None:
    path = edit(kept.latest, tmp_path / "state.db", script, kept.earlier)
    with pytest.raises(TamperedError, match=said):
        load(path, kept.token)


def test_another_hsms_state_is_refused(kept: Kept, tmp_path: Path) -> None:
    shutil.copy(kept.cluster.machines[1].path, path := tmp_path / "state.db")
    shutil.copy(f"{kept.cluster.machines[1].path}-wal", f"{path}-wal")
    with pytest.raises(TamperedError, match="fails its seal"):
        load(path, kept.token)


@settings(max_examples=examples(120), deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_a_seal_is_found(
    kept: Kept, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    with closing(sqlite3.connect(kept.latest)) as db:
        rows = [
            ("rows", rowid, sealed)
            for rowid, sealed in db.execute("SELECT tab || '/' || name, sealed FROM rows")
        ] + [("local", name, sealed) for name, sealed in db.execute("SELECT * FROM local")]
    table, name, sealed = data.draw(st.sampled_from(rows))
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.db"
    for old in path.parent.glob("flipped.db*"):
        old.unlink()
    shutil.copy(kept.latest, path)
    key = "tab || '/' || name" if table == "rows" else "name"
    with closing(sqlite3.connect(path)) as db, db:
        # The table's name is one of two words of ours.
        query = f"UPDATE {table} SET sealed = ? WHERE {key} = ?"  # noqa: S608
        assert db.execute(query, (bytes(changed), name)).rowcount == 1
    with pytest.raises(TamperedError, match=name.replace("(", r"\(").replace(")", r"\)")):
        load(path, kept.token)


@pytest.mark.parametrize(
    "content", [b"garbage " * 200, b"SQLite format 3\0" + b"\xa5" * 8000, bytes(4096)]
)
def test_a_file_that_is_no_state(kept: Kept, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(TamperedError, match=r"state\.db is no HSM state"):
        load(path, kept.token)
    assert path.read_bytes() == content


# --- kept entries: an HSM that holds a damaged one does not start, so that nobody adopts it ---


@pytest.fixture
def restart(kept: Kept, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Start the HSM anew, alone in reach, on an edited file."""
    cluster, machine = kept.cluster, kept.machine

    def start(script: str) -> None:
        machine.path = edit(kept.latest, tmp_path / "state.db", script)
        machine.start()
        cluster.members = cluster.machines[:1]
        cluster.restart_controller()

    yield start
    machine.stop()
    cluster.members = cluster.machines


ENTRY_EDITS = {
    "a body edited": "UPDATE entries SET body = zeroblob(length(body)) WHERE seq = 7",
    "a body of another": "UPDATE entries SET body ="
    " (SELECT body FROM entries WHERE seq = 6) WHERE seq = 7",
    "a signature edited": "UPDATE entries SET signature = zeroblob(64) WHERE seq = 7",
    "a header of another": "UPDATE entries SET header ="
    " (SELECT header FROM entries WHERE seq = 6) WHERE seq = 7",
    "a header that is none": "UPDATE entries SET header = x'00' WHERE seq = 7",
    "an entry dropped": "DELETE FROM entries WHERE seq = 7",
    "two entries swapped": "UPDATE entries SET seq = -seq WHERE seq IN (7, 8);"
    "UPDATE entries SET seq = 15 + seq WHERE seq < 0",
}


@pytest.mark.parametrize("script", ENTRY_EDITS.values(), ids=ENTRY_EDITS)
def test_no_edited_entry_is_adopted(
    kept: Kept, restart: Callable[[str], None], script: str
) -> None:
    ledger = kept.cluster.ledger
    before = ledger.after(0, 100)
    with pytest.raises(TamperedError, match=r"entry \d+ of the HSM's state"):
        restart(script)
    with pytest.raises(OrchestratorError) as caught:
        kept.cluster.controller.adopt(kept.machine.id)
    assert caught.value.code == "unavailable"
    assert ledger.after(0, 100) == before


# --- audit ---


AUDIT_EDITS = {
    "the first line removed": ("DELETE FROM audit WHERE number = 0", "line 0"),
    "a line removed": ("DELETE FROM audit WHERE number = 3", "line 3"),
    "the last line removed": (
        "DELETE FROM audit WHERE number = (SELECT MAX(number) FROM audit)",
        "the audit log ends at",
    ),
    "all lines removed": ("DELETE FROM audit", "the audit log ends at 0"),
    "two lines swapped": (
        "UPDATE audit SET number = -number WHERE number IN (3, 4);"
        "UPDATE audit SET number = 7 + number WHERE number < 0",
        "line 3",
    ),
    "lines renumbered over a gap": (
        "DELETE FROM audit WHERE number = 3;"
        "UPDATE audit SET number = -number WHERE number > 3;"
        "UPDATE audit SET number = -number - 1 WHERE number < 0",
        "line 3",
    ),
    "a line repeated": (
        "INSERT INTO audit SELECT 1000, record FROM audit WHERE number = 3",
        "line",
    ),
    "a line edited": ("UPDATE audit SET record = forged(record) WHERE number = 3", "line 4"),
    "the last line edited": (
        "UPDATE audit SET record = forged(record) WHERE number = (SELECT MAX(number) FROM audit)",
        "the audit log ends at",
    ),
    "a line that is none": ("UPDATE audit SET record = x'00' WHERE number = 3", "audit line"),
}


def forged(record: bytes) -> bytes:
    """An audit line with another outcome, well-formed."""
    changed = msgspec.msgpack.decode(record, type=m.AuditRecord)
    return encode(msgspec.structs.replace(changed, outcome="nothing happened"))


@pytest.mark.parametrize(("script", "said"), AUDIT_EDITS.values(), ids=AUDIT_EDITS)
def test_an_edited_audit_log_is_found(
    kept: Kept, restart: Callable[[str], None], script: str, said: str
) -> None:
    restart(script)
    check = audit_check(kept)
    assert said in check.problem
    assert kept.machine.hsm is not None
    vault = kept.machine.hsm.core.vault
    vault.audit(kept.machine.hsm.core.line("later", "", "", "done"))
    assert audit_check(kept).problem  # what goes on behind it heals nothing


def test_the_untouched_audit_log_is_whole(kept: Kept, restart: Callable[[str], None]) -> None:
    restart("")
    check = audit_check(kept)
    assert (check.problem, check.records > 5) == ("", True)


def audit_check(kept: Kept) -> AuditCheck:
    directory = kept.directory / "clusters" / CLUSTER
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "anchor.pem").write_bytes(kept.cluster.anchor)
    plane = SimpleNamespace(controller=lambda _: kept.cluster.controller, home=kept.directory)
    return Inspection(cast(ControlPlane, plane)).check_audit(CLUSTER, kept.machine.id)
