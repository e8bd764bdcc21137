"""The control plane's database: clusters, HSMs, backups, and the ledger's rows.

Invariants: (cluster, seq) and (cluster, request) are unique and `prev` names the row before, so
that an entry is inserted once, on the head and nowhere else; what is confirmed is on the disk
(`synchronous=FULL`).
"""

from __future__ import annotations

import sqlite3
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
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.model.errors import TamperedError

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 15

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

    Raises:
        TamperedError: the file is none of this format.
    """
    path.touch(mode=0o600, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    try:
        with engine.begin() as db:
            version = db.execute(text("PRAGMA user_version")).scalar_one()
            if version not in {0, SCHEMA_VERSION}:
                raise TamperedError(
                    f"{path} has format version {version}, this software knows {SCHEMA_VERSION}"
                )
            metadata.create_all(db)
            db.execute(text(f"PRAGMA user_version={SCHEMA_VERSION}"))
    except (DatabaseError, sqlite3.DatabaseError) as exc:
        engine.dispose()
        raise TamperedError(
            f"{path} is no control-plane database; move it away, then `cloister cluster adopt`"
        ) from exc
    return engine
