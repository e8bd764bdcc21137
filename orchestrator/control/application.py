"""What an application's gateway needs of a cluster: log-ins, and changes in their users' names.

Invariants: using keys opens no database, so that it goes on without one; the database is opened
by the first change, and by no log-in.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from sqlalchemy import Engine

from orchestrator.client.balancer import Balancer
from orchestrator.client.connection import expect
from orchestrator.client.directory import endpoints_source, pick_cluster, read_anchor
from orchestrator.client.session import Session
from orchestrator.control.changes import Changes
from orchestrator.control.controller import Controller
from orchestrator.control.database import open_database
from orchestrator.control.ledger import Ledger
from orchestrator.control.roster import Roster
from orchestrator.model.clock import Clock
from orchestrator.model.errors import UnavailableError
from orchestrator.model.ids import ClusterId
from orchestrator.model.objects import ObjectFilter
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.wire import messages as m
from orchestrator.wire.system_clock import SystemClock


class Application:
    """One process's way to one cluster. Thread-safe; not to be carried over a fork."""

    def __init__(self, home: Path, cluster: ClusterId, anchor: bytes, clock: Clock) -> None:
        """Use `open`."""
        self.cluster, self._home, self._anchor, self._clock = cluster, home, anchor, clock
        self._source = endpoints_source(home, cluster)
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._controller: Controller | None = None
        self._anonymous: Balancer | None = None

    @classmethod
    def open(cls, home: Path, cluster: str | None = None, clock: Clock | None = None) -> Self:
        """Read where a cluster is; asks no HSM.

        Args:
            home: where the cluster's files are.
            cluster: id or unique prefix; None takes the only cluster there is.
            clock: default the system's.
        """
        chosen = pick_cluster(home, cluster)
        return cls(home, chosen, read_anchor(home, chosen), clock or SystemClock())

    def login(self, user: str, password: bytes) -> Session:
        """Log a crypto user in.

        Raises:
            RemoteError: `login-failed` or `user-locked`.
            UnavailableError: no HSM answers.
        """
        balancer = self._balancer()
        try:
            session = Session(balancer, self._clock, Role.CRYPTO_USER, parse_user_name(user))
            return session.login(password)
        except BaseException:
            balancer.close()
            raise

    def _balancer(self) -> Balancer:
        return Balancer(self.cluster, self._anchor, self._source, self._clock)

    def public_objects(
        self, object_filter: ObjectFilter, offset: int = 0, limit: int = 100
    ) -> m.ObjectPage:
        """Return certificates and data objects that are not private, without a log-in."""
        with self._opening:
            self._anonymous = self._anonymous or self._balancer()
        request = m.ListObjects(b"", 0, object_filter, offset, limit)
        return expect(self._anonymous.call(lambda _: request), m.ObjectPage)

    def changes(self, session: Session) -> Changes:
        """Return what this session's user may change.

        Raises:
            UnavailableError: the ledger's database is not here.
        """
        with self._opening:
            if self._controller is None:
                path = self._home / "control.db"
                if not path.exists():
                    raise UnavailableError(
                        f"there is no ledger at {path}: keys can be used, and nothing changed"
                    )
                self._engine = open_database(path)
                roster = Roster(self.cluster, self._source)
                ledger = Ledger(self._engine, self.cluster)
                self._controller = Controller(self.cluster, ledger, roster, self._clock)
        return Changes(self._controller, session, self._anchor, list, self._clock)

    def set_password(self, session: Session, old: bytes, new: bytes) -> Session:
        """Change the password of a session's user, who proves to know the old one.

        Returns:
            A session that goes on: a new password ends all earlier logins, `session` among them.
        """
        with self.login(session.name, old) as proof:
            self.changes(proof).change_password(session.name, session.role, new)
        return self.login(session.name, new)

    def close(self) -> None:
        """End the connections that are no session's, and close the database."""
        with self._opening:
            if self._controller is not None:
                self._controller.roster.close()
            if self._engine is not None:
                self._engine.dispose()
            if self._anonymous is not None:
                self._anonymous.close()
            self._controller = self._engine = self._anonymous = None
