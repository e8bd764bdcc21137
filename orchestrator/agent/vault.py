"""What an HSM keeps beside its token: state rows, entries, audit log and counters, in SQLite.

Invariants: every row is sealed by the token to its place (table, name, seq), and the sealed
head names the digest of them all, so that a row that is moved, dropped, swapped or edited is
found at the next start; an entry, the rows it writes, the head and the audit line are one
transaction, which is on the disk (`synchronous=FULL`) when a method returns.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from orchestrator.model.entries import NO_HASH, Entry, Record, decode, encode
from orchestrator.model.errors import (
    MalformedError,
    OrchestratorError,
    StorageError,
    TamperedError,
)
from orchestrator.model.state import Put, State, StoredRow, Table
from orchestrator.tokens.store import BlobRefusedError, TokenStore
from orchestrator.wire.messages import AuditRecord

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS rows (tab TEXT, name TEXT, seq INTEGER NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tab, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL,
    request TEXT NOT NULL UNIQUE, header BLOB NOT NULL, signature BLOB NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS local (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
"""
T = TypeVar("T", bound=msgspec.Struct)


class Head(Record):
    """Where the stored state stands, and the digest that its rows must have."""

    seq: int
    head: bytes
    at: int
    digest: bytes
    audit_count: int = 0


class AuditHead(Record):
    """How many audit lines there are, and the hash of the last."""

    count: int
    hash: bytes


class Vault:
    """One HSM's database. Methods may be called from any thread; writes are one at a time."""

    def __init__(self, path: Path, store: TokenStore) -> None:
        """Open or create the database.

        Raises:
            TamperedError: the file is no database of this format.
        """
        self._store, self._path = store, path
        self._lock = threading.RLock()
        path.touch(mode=0o600, exist_ok=True)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in {0, SCHEMA_VERSION}:
                raise TamperedError(
                    f"{path} has format version {version}, this software knows {SCHEMA_VERSION}"
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._audit = self.local(AuditHead, "audit-head") or AuditHead(0, NO_HASH)
            (self.erased,) = self._db.execute(
                "SELECT IFNULL(MAX(seq), 0) FROM entries WHERE LENGTH(body) = 0"
            ).fetchone()
        except sqlite3.DatabaseError as exc:
            self._db.close()
            raise TamperedError(f"{path} is no HSM state of Cloister: {exc}") from exc
        except OrchestratorError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            before = self._audit
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as exc:
                self._audit = before
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(exc, sqlite3.OperationalError):
                    raise StorageError(
                        f"the HSM cannot keep its state in {self._path}: {exc}; free or mend the "
                        "disk"
                    ) from exc
                raise

    # --- state ---

    def load(self) -> State:
        """Return the stored state after checking every seal and the digest.

        Raises:
            TamperedError: names the row that was changed, or says that rows are missing.
        """
        stored = []
        with self._lock:
            for tab, name, seq, sealed in self._db.execute(
                "SELECT tab, name, seq, sealed FROM rows"
            ):
                data = self._unseal(f"{tab}/{name}/{seq}", sealed)
                stored.append(StoredRow(Table(tab), name, data))
            head = self.local(Head, "head")
        if head is None:
            if stored:
                raise TamperedError("the HSM's state has rows and no head")
            return State()
        stored.sort(key=lambda row: (row.table, row.name))
        state, counted = State.build(stored, seq=head.seq, head=head.head, at=head.at)
        if head.digest not in {counted, state.digest()}:  # the latter with rows of earlier software
            raise TamperedError("rows of the HSM's state are missing, added or replaced")
        if self._audit.count < head.audit_count:
            raise TamperedError(
                f"the HSM's audit log had {head.audit_count} lines and has {self._audit.count}"
            )
        self._check_entries(head)
        return state

    def _check_entries(self, head: Head) -> None:
        """Check that the entries kept are a chain, and end where the state stands."""
        place, prev = 0, b""
        with self._lock:
            for row in self._db.execute(
                "SELECT seq, hash, header, signature, body FROM entries ORDER BY seq"
            ):
                entry = Entry(*row[2:])
                damaged = f"entry {row[0]} of the HSM's state is damaged or missing"
                try:
                    header = entry.parse_header()
                except MalformedError as exc:
                    raise TamperedError(damaged) from exc
                follows = not prev or (header.seq, header.prev) == (place + 1, prev)
                is_itself = (header.seq, entry.hash) == (row[0], row[1])
                if not (follows and is_itself and entry.is_whole(header)):
                    raise TamperedError(damaged)
                place, prev = header.seq, entry.hash
        if prev and (place, prev) != (head.seq, head.head):
            raise TamperedError(f"entry {head.seq} of the HSM's state is damaged or missing")

    def install(self, state: State, line: AuditRecord) -> None:
        """Store a whole state, as a snapshot brought it, in place of none."""
        with self._transaction():
            self._replace_all(state)
            self._write_audit(line)
            self._write_head(state)

    def _replace_all(self, state: State) -> None:
        self._db.execute("DELETE FROM rows")
        self._db.execute("DELETE FROM entries")
        self._write_rows(state.rows(), state.seq)

    def commit(  # one transaction, all of it
        self,
        entry: Entry,
        request: str,
        puts: Sequence[Put],
        after: State,
        line: AuditRecord,
        base: State | None = None,
    ) -> None:
        """Store an entry, the rows it writes, the new head and its audit line, or nothing.

        Args:
            entry: verified.
            request: its request id.
            puts: what it writes.
            after: the new place; only its seq, head, at and digest are used.
            line: for the audit log.
            base: a restored state to store first, in place of none.
        """
        with self._transaction() as db:
            if base is not None:
                self._replace_all(base)
            for put in puts:
                if put.row is None:
                    db.execute("DELETE FROM rows WHERE tab=? AND name=?", (put.table, put.name))
            rows = (StoredRow(p.table, p.name, encode(p.row)) for p in puts if p.row is not None)
            self._write_rows(rows, after.seq)
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                (after.seq, entry.hash, request, entry.header, entry.signature, entry.body),
            )
            self._write_audit(line)
            self._write_head(after)

    def _write_rows(self, rows: Iterable[StoredRow], seq: int) -> None:
        for row in rows:
            sealed = self._seal(f"{row.table}/{row.name}/{seq}", row.data)
            self._db.execute(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
                (row.table, row.name, seq, sealed),
            )

    def _write_head(self, state: State) -> None:
        head = Head(state.seq, state.head, state.at, state.digest(), self._audit.count)
        self._write_local("head", head)

    # --- entries ---

    def entries_after(self, seq: int, limit: int, bytes_max: int) -> list[Entry]:
        """Return stored entries after `seq`, in order: as many as fit, and one at least."""
        page: list[Entry] = []
        with self._lock:
            found = self._db.execute(
                "SELECT header, signature, body FROM entries WHERE seq > ? ORDER BY seq LIMIT ?",
                (seq, limit),
            )
            for row in found:
                bytes_max -= sum(map(len, row)) + 64
                if bytes_max < 0 and page:
                    break
                page.append(Entry(*row))
            return page

    def erase_bodies(self, upto: int) -> None:
        """Empty the bodies of entries up to a place; headers stay. Gone for good on return."""
        with self._transaction() as db:
            db.execute("UPDATE entries SET body=x'' WHERE seq <= ? AND LENGTH(body) > 0", (upto,))
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # old pages leave the log too
            self.erased = max(self.erased, upto)

    def first_seq(self) -> int | None:
        """Return the place of the first entry that is kept, None when none is."""
        with self._lock:
            (first,) = self._db.execute("SELECT MIN(seq) FROM entries").fetchone()
        return None if first is None else int(first)

    def entry_hash(self, seq: int) -> bytes | None:
        """Return the hash of the entry at `seq`, if it is kept."""
        with self._lock:
            row = self._db.execute("SELECT hash FROM entries WHERE seq=?", (seq,)).fetchone()
        return None if row is None else bytes(row[0])

    def entry_by_request(self, request: str) -> Entry | None:
        """Return the entry that carries this request id."""
        with self._lock:
            row = self._db.execute(
                "SELECT header, signature, body FROM entries WHERE request=?", (request,)
            ).fetchone()
        return None if row is None else Entry(*row)

    # --- audit ---

    def audit(self, line: AuditRecord) -> None:
        """Append one audit line, durable on return. Number and chain are filled in here."""
        with self._transaction():
            self._write_audit(line)

    def _write_audit(self, line: AuditRecord) -> None:
        number = self._audit.count
        record = encode(msgspec.structs.replace(line, number=number, prev=self._audit.hash))
        self._db.execute("INSERT INTO audit VALUES (?, ?)", (number, record))
        self._audit = AuditHead(number + 1, hashlib.sha256(record).digest())
        self._write_local("audit-head", self._audit)

    def audit_lines(self, start: int, limit: int) -> tuple[list[bytes], AuditHead]:
        """Return stored lines from `start` on, and the head."""
        with self._lock:
            found = self._db.execute(
                "SELECT record FROM audit WHERE number >= ? ORDER BY number LIMIT ?", (start, limit)
            )
            return [bytes(record) for (record,) in found], self._audit

    # --- local, sealed values ---

    def local(self, kind: type[T], name: str) -> T | None:
        """Return a value of this HSM alone."""
        with self._lock:
            row = self._db.execute("SELECT sealed FROM local WHERE name=?", (name,)).fetchone()
        return None if row is None else decode(kind, self._unseal(f"local/{name}", row[0]), name)

    def local_names(self, prefix: str) -> list[str]:
        """Return the names of this HSM's own values that begin with `prefix`."""
        with self._lock:
            found = self._db.execute(
                "SELECT name FROM local WHERE name >= ? AND name < ?", (prefix, prefix + "\x7f")
            )
            return [name for (name,) in found]

    def set_local(self, name: str, value: msgspec.Struct | None) -> None:
        """Store or delete a value of this HSM alone, durable on return."""
        with self._transaction() as db:
            if value is None:
                db.execute("DELETE FROM local WHERE name=?", (name,))
            else:
                self._write_local(name, value)

    def _write_local(self, name: str, value: msgspec.Struct) -> None:
        sealed = self._seal(f"local/{name}", encode(value))
        self._db.execute("INSERT OR REPLACE INTO local VALUES (?, ?)", (name, sealed))

    def _seal(self, place: str, data: bytes) -> bytes:
        return self._store.seal(data, place.encode())

    def _unseal(self, place: str, sealed: object) -> bytes:
        if not isinstance(sealed, bytes):  # a column keeps whatever type was put into it
            raise TamperedError(f"row {place} of the HSM's state holds no bytes")
        try:
            return self._store.unseal(sealed, place.encode())
        except BlobRefusedError as exc:
            raise TamperedError(f"row {place} of the HSM's state fails its seal") from exc
