"""The ledger: the ordered, hash-chained log of a cluster's changes, one row an entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from orchestrator.control.database import entries as table
from orchestrator.model.entries import NO_HASH, Entry
from orchestrator.model.errors import MalformedError, MovedOnError, RefusedError, TamperedError


@dataclass(frozen=True, slots=True)
class Head:
    """The last row: 0 and no hash when there is none."""

    seq: int
    hash: bytes


class Ledger:
    """One cluster's rows. The insert in `commit` is the only commit point there is."""

    def __init__(self, engine: Engine, cluster: str) -> None:
        self._engine, self._cluster = engine, cluster

    def head(self) -> Head:
        """Return the last row's place and hash."""
        query = (
            select(table.c.seq, table.c.hash)
            .where(table.c.cluster_id == self._cluster)
            .order_by(table.c.seq.desc())
            .limit(1)
        )
        with self._engine.connect() as db:
            row = db.execute(query).first()
        return Head(row.seq, row.hash) if row else Head(0, NO_HASH)

    def commit(self, entry: Entry, *, is_base: bool = False) -> None:
        """Insert an entry on the head; durable on return.

        Args:
            entry: prepared by a member.
            is_base: the first row of a ledger that begins here: a new, restored or adopted one.

        Raises:
            MovedOnError: the place or the request is taken: look there.
            UnavailableError: the database did not confirm; whether the row is there, `find` tells.
        """
        header = entry.parse_header()
        if header.cluster != self._cluster:
            raise TamperedError(f"an entry of {header.cluster} is offered to {self._cluster}")
        if is_base and self.head().seq:
            raise MovedOnError(f"the ledger of {self._cluster} has begun already")
        row = {
            "cluster_id": header.cluster,
            "seq": header.seq,
            "hash": entry.hash,
            "prev": None if is_base else header.prev,
            "request": header.request,
            "header": entry.header,
            "signature": entry.signature,
            "body": entry.body,
        }
        try:
            with self._engine.begin() as db:
                db.execute(insert(table).values(row))
        except IntegrityError as exc:
            raise MovedOnError(f"place {header.seq} of the ledger is taken") from exc

    def find(self, request: str) -> Entry | None:
        """Return the entry that carries a request id.

        Raises:
            TamperedError: the row found is not what its bytes say.
        """
        query = select(table).where(table.c.cluster_id == self._cluster, table.c.request == request)
        with self._engine.connect() as db:
            row = db.execute(query).first()
        return self._entry(row) if row else None

    def after(self, seq: int, limit: int) -> list[Entry]:
        """Return entries after `seq` in order.

        Raises:
            TamperedError: a row is missing or its bytes do not have the hash that chains it.
        """
        query = (
            select(table)
            .where(table.c.cluster_id == self._cluster, table.c.seq > seq)
            .order_by(table.c.seq)
            .limit(limit)
        )
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return [self._entry(row) for row in rows]

    def _entry(self, row: Row[Any]) -> Entry:
        """Return a row's entry if the columns beside it repeat what its bytes say."""
        entry = Entry(row.header, row.signature, row.body)
        damaged = TamperedError(
            f"row {row.seq} of the ledger of {self._cluster} is damaged; changes freeze until "
            "`cloister cluster adopt`"
        )
        try:
            header = entry.parse_header()
        except (MalformedError, TypeError) as exc:  # TypeError: a column of another type
            raise damaged from exc
        said = (entry.hash, header.cluster, header.seq, header.request)
        if said != (row.hash, row.cluster_id, row.seq, row.request):
            raise damaged
        if row.prev is not None and header.prev != row.prev:
            raise damaged
        if not entry.is_whole(header):  # the body is no part of the entry's hash
            raise damaged
        return entry

    def check(self) -> None:
        """Check the whole chain of rows; raise TamperedError at the first that is wrong."""
        seq, prev = 0, b""
        while page := self.after(seq, 500):
            for entry in page:
                header = entry.parse_header()
                if prev and (header.seq != seq + 1 or header.prev != prev):
                    raise TamperedError(
                        f"the ledger of {self._cluster} breaks between rows {seq} and {header.seq}"
                    )
                seq, prev = header.seq, entry.hash

    def replace(self, chain: list[Entry]) -> None:
        """Put a chain in place of all rows, in one transaction (adopting)."""
        if not chain:
            raise RefusedError("nothing-to-adopt", "no HSM holds an entry")
        for entry in chain:
            header = entry.parse_header()
            if not entry.is_whole(header):
                raise TamperedError(
                    f"the body of entry {header.seq}, as an HSM keeps it, is not the one that was "
                    "signed; take another HSM's chain: `cloister cluster adopt --hsm ID`"
                )
        with self._engine.begin() as db:
            db.execute(delete(table).where(table.c.cluster_id == self._cluster))
            for number, entry in enumerate(chain):
                header = entry.parse_header()
                db.execute(
                    insert(table).values(
                        cluster_id=self._cluster,
                        seq=header.seq,
                        hash=entry.hash,
                        prev=header.prev if number else None,
                        request=header.request,
                        header=entry.header,
                        signature=entry.signature,
                        body=entry.body,
                    )
                )

    def erase_bodies(self, upto: int) -> None:
        """Empty the bodies of entries up to a place; headers stay. Gone for good on return."""
        old = (table.c.cluster_id == self._cluster) & (table.c.seq <= upto) & (table.c.body != b"")
        with self._engine.begin() as db:
            db.execute(update(table).where(old).values(body=b""))
        if self._engine.dialect.name == "sqlite":  # old pages leave the log too
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                db.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))

    def erased(self) -> int:
        """Return the place up to which there are no bodies any more."""
        query = select(func.max(table.c.seq)).where(
            table.c.cluster_id == self._cluster, table.c.body == b""
        )
        with self._engine.connect() as db:
            return db.execute(query).scalar() or 0

    def erase(self) -> None:
        """Delete all rows of a cluster that is gone."""
        with self._engine.begin() as db:
            db.execute(delete(table).where(table.c.cluster_id == self._cluster))
