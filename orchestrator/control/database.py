"""The control plane's database: clusters, HSMs, backups, and the ledger's rows.

Invariants: (cluster, seq) and (cluster, request) are unique and `prev` names the row before, so
that an entry is inserted once, on the head and nowhere else; what is confirmed is on the disk
(`synchronous=FULL`).
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from sqlalchemy import (
    Column,
    Engine,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.model.errors import (
    OrchestratorError,
    RefusedError,
    TamperedError,
    UnavailableError,
)

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 15
_BUSY_PAUSE_S: Final = 0.01

metadata = MetaData()
clusters = Table(
    "clusters",
    metadata,
    Column("cluster_id", String, primary_key=True),
    Column("hsm_type", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("zones", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("source_backup", String, nullable=False, default=""),
)
hsms = Table(
    "hsms",
    metadata,
    Column("hsm_id", String, primary_key=True),
    Column("cluster_id", String, nullable=False, index=True),
    Column("host", String, nullable=False),
    Column("zone", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Integer, nullable=False),
)
backups = Table(
    "backups",
    metadata,
    Column("backup_id", String, primary_key=True),
    Column("cluster_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("delete_at", Integer),
)
entries = Table(
    "entries",
    metadata,
    Column("cluster_id", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("prev", LargeBinary),  # NULL in the first row that is kept
    Column("request", String, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("cluster_id", "request"),
    UniqueConstraint("cluster_id", "hash"),
    ForeignKeyConstraint(["cluster_id", "prev"], ["entries.cluster_id", "entries.hash"]),
)


def open_database(path: Path) -> Engine:
    """Open or create the database (mode 0600).

    Whatever SQLite says of the file, now or later, is raised as one of these; a constraint that
    an insert breaks stays SQLAlchemy's IntegrityError.

    Raises:
        TamperedError: the file is none of this format.
        UnavailableError: another process holds it for longer than the busy timeout, or the disk
            fails; nothing was written, or `Ledger.find` tells.
        RefusedError: it cannot be opened or written.
    """
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as exc:
        raise _no_access(path, exc.strerror) from exc
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        _use_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        problem = context.original_exception
        if isinstance(problem, sqlite3.Error) and not isinstance(problem, sqlite3.IntegrityError):
            raise _error(path, problem)

    try:
        with engine.begin() as db:
            version = db.execute(text("PRAGMA user_version")).scalar_one()
            if version == 0:
                # One process at a time: what is not there is created, and there may be several.
                db.execute(text("BEGIN IMMEDIATE"))
                metadata.create_all(db)
                db.execute(text(f"PRAGMA user_version={SCHEMA_VERSION}"))
            elif version != SCHEMA_VERSION:
                raise TamperedError(
                    f"{path} has format version {version}, this software knows {SCHEMA_VERSION}"
                )
    except BaseException:
        engine.dispose()
        raise
    return engine


def _use_wal(cursor: DBAPICursor) -> None:
    """Switch to a write-ahead log; SQLite does not wait by itself for all locks that this takes."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            is_busy = exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _error(path: Path, problem: sqlite3.Error) -> OrchestratorError:
    match getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:  # without its detail
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError(f"{path} is locked by another process; try again")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return _no_access(path, str(problem))
        case sqlite3.SQLITE_ERROR | sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return TamperedError(
                f"{path} is no control-plane database ({problem}); move it away, then "
                "`cloister cluster adopt`"
            )
        case _:
            return UnavailableError(f"{path} cannot be used now: {problem}; try again")


def _no_access(path: Path, problem: str | None) -> RefusedError:
    return RefusedError(
        "database-access",
        f"{path} cannot be opened for writing: {problem}; it and its directory must be yours",
    )
