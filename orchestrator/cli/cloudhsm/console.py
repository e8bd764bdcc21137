"""What commands act on: the control plane, who is logged in where, and the person who types.

Invariants: a log-in is kept only in interactive mode, and one per cluster; without it every
command logs in with what the environment said; passwords are asked for without echo.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from orchestrator.cli import credentials, files
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.credentials import GivenLogin, Login
from orchestrator.cli.errors import LoginNeededError
from orchestrator.cli.invocation import Services
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    PermissionDeniedError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from orchestrator.model.ids import ClusterId
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.roles import Role, check_password

if TYPE_CHECKING:
    from orchestrator.client.session import Session
    from orchestrator.control.changes import Changes
    from orchestrator.control.plane import ControlPlane
    from orchestrator.control.replication import Replication
    from orchestrator.sealed.token_files import TokenFile
    from orchestrator.wire.messages import KeyPage


PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Environment:
    """What the environment said about who acts, here and at the clone that is copied to."""

    login: GivenLogin
    destination: GivenLogin


class Console:
    """One run of the program; close it, or use it as a context manager."""

    def __init__(
        self,
        services: Services,
        environment: Environment,
        *,
        cluster_prefix: str | None = None,
        is_interactive: bool = False,
        login_hint: str = "login --username … --role …",
    ) -> None:
        self.services, self.cluster_prefix = services, cluster_prefix
        self._login_hint = login_hint
        self.is_interactive = is_interactive
        self._environment = environment
        self._sessions: dict[ClusterId, Session] = {}
        self._last: ClusterId | None = None
        self._homes: dict[ClusterId, str] = {}
        self._patience: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End connections; session keys end with them."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        if "plane" in self.__dict__:
            self.plane.close()

    @cached_property
    def plane(self) -> ControlPlane:
        """The control plane, opened on first use."""
        return self.services.plane()

    # --- clusters and log-ins ---

    def cluster(self, given: Given) -> ClusterId:
        """Return the chosen cluster: by flag, where interactive mode began, or the only one."""
        prefix = given.maybe("--cluster-id") or given.maybe("--source-cluster-id")
        prefix = prefix or self.cluster_prefix
        if prefix is None and self._last is not None:
            return self._last
        return self.plane.records.resolve_cluster(prefix)

    def keep(self, cluster: ClusterId, session: Session) -> None:
        """Keep a log-in in the place of an earlier one."""
        self.forget(cluster)
        self._sessions[cluster], self._last = session, cluster

    def forget(self, cluster: ClusterId) -> None:
        """Close a log-in, which ends its session keys."""
        self._homes.pop(cluster, None)
        if (session := self._sessions.pop(cluster, None)) is not None:
            session.close()
        if self._last == cluster:
            self._last = next(iter(self._sessions), None)

    def logged_in(self) -> tuple[ClusterId, Session] | None:
        """Return the latest log-in."""
        return (self._last, self._sessions[self._last]) if self._last is not None else None

    def session(self, given: Given) -> Session:
        """Return the log-in at the command's cluster."""
        return self.session_at(self.cluster(given), self._environment.login, "")

    def session_at(self, cluster: ClusterId, given: GivenLogin, prefix: str) -> Session:
        """Return the log-in at a cluster, or log in with what the environment gave.

        Raises:
            LoginNeededError: nobody is logged in there, and the environment names nobody.
        """
        if (session := self._sessions.get(cluster)) is not None:
            return session
        if self.is_interactive:
            raise LoginNeededError(f"log in to {cluster} first: {self._login_hint}")
        if given.pin is None:
            raise LoginNeededError(
                f"this command needs a login: set {prefix}CLOUDHSM_ROLE (admin or crypto-user) "
                f"and {prefix}CLOUDHSM_PIN (user:password)"
            )
        login = credentials.find_login(given, None, None)
        return self.log_in(cluster, login)

    def log_in(self, cluster: ClusterId, login: Login) -> Session:
        """Log in with a password, and keep it."""
        session = self.plane.login(cluster, login.role, login.name, login.password)
        self.keep(cluster, session)
        return session

    def changes(self, given: Given) -> Changes:
        """Return what the user who is logged in may change."""
        return self.plane.changes(self.cluster(given), self.session(given))

    def replication(self, given: Given) -> Replication:
        """Return what copies from one cluster to another, with a log-in at both."""
        from orchestrator.control.replication import Replication

        records = self.plane.records
        target = records.resolve_cluster(given.text("--destination-cluster-id"))
        there = self.session_at(target, self._environment.destination, "DESTINATION_")
        return Replication(self.session(given), self.plane.controller(target), there)

    # --- keys ---

    def session_home(self, given: Given) -> str:
        """Return the HSM that holds this log-in's session keys, all of them."""
        session, cluster = self.session(given), self.cluster(given)
        return self._homes.setdefault(cluster, session.balancer.least_busy())

    def keep_home(self, given: Given, key: Key) -> None:
        """Remember where a session key lives."""
        home = self.session(given).session_keys.home_of(key.ref)
        self._homes.setdefault(self.cluster(given), home)

    def need_crypto_user(self, given: Given, operation: str) -> None:
        """Refuse to do for an admin on this machine what the original does for crypto users."""
        role = self.session(given).role
        if role is not Role.CRYPTO_USER:
            raise PermissionDeniedError(role, operation)

    def list_keys(self, given: Given, key_filter: KeyFilter, offset: int, limit: int) -> KeyPage:
        """Return a page of keys, from the HSM that has the session keys while it answers."""
        session, home = self.session(given), self._homes.get(self.cluster(given))
        if home is not None:
            with suppress(UnavailableError, NotFoundError):
                return session.list_keys(key_filter, offset, limit, home)
        return session.list_keys(key_filter, offset, limit)

    def find_key(self, given: Given, flag: str = "--filter") -> Key:
        """Return the one key that a flag's filter matches."""
        page = self.list_keys(given, KeyFilter.parse(given.list(flag)), 0, 2)
        if page.total != 1 or not page.keys:
            raise RefusedError(
                "ambiguous-filter" if page.total else "not-found",
                f"Key selection criteria matched {page.total} keys. Refine selection criteria to "
                "select a single key.",
            )
        return page.keys[0]

    # --- the person ---

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Say on a terminal that a command takes long, unless it asks something first."""
        text = "waiting for the cluster; Ctrl-C interrupts\n"
        self._patience = threading.Timer(PATIENCE_S, lambda: sys.stderr.write(text))
        self._patience.daemon = True
        if sys.stderr.isatty():
            self._patience.start()
        try:
            yield
        finally:
            self._patience.cancel()

    def password(self, given: Given) -> bytes:
        """Return the password of a user who exists."""
        typed = given.maybe("--password")
        if typed is not None:
            self._warn_of_argv()
            return typed.encode()
        self._need_person("the password")
        return credentials.ask_hidden("Enter password").encode()

    def new_password(self, given: Given, flag: str = "--password") -> bytes:
        """Return a new password."""
        typed = given.maybe(flag)
        if typed is not None:
            self._warn_of_argv()
            return check_password(typed.encode())
        self._need_person("the new password")
        return credentials.typed_twice("Enter password: ", "Confirm password: ")

    def ask(self, question: str) -> str:
        """Ask, also where no person is: then a line of stdin is the answer."""
        self._stop_patience()
        return credentials.ask(question)

    def ask_path(self, question: str, default: Path | None = None) -> Path:
        """Ask for a file."""
        answer = self.ask(question)
        if not answer and default is None:
            raise UsageError("no file was named; nothing was done")
        return Path(answer) if answer else default or Path()

    def _need_person(self, what: str) -> None:
        if not credentials.is_interactive():
            raise LoginNeededError(f"{what} is needed, and there is no terminal to ask on")
        self._stop_patience()

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def warn_unless_interactive(self, text: str) -> None:
        """Say something on stderr, where it disturbs no result."""
        if not self.is_interactive:
            sys.stderr.write(f"warning: {text}\n")

    def _warn_of_argv(self) -> None:
        self.warn_unless_interactive(
            "every user of this machine can read a password on the command line while the command "
            "runs; leave --password out to be asked for it"
        )


def is_session_key(key: Key) -> bool:
    """Tell whether a key lives on one HSM only."""
    return bool(key.ref & SESSION_KEY_BIT)


def approval_of(given: Given, flag: str = "--approval") -> TokenFile | None:
    """Return the signed quorum token of a file that was named."""
    from orchestrator.sealed.token_files import TokenFile

    path = given.maybe(flag)
    return TokenFile.parse(files.read(Path(path))) if path is not None else None


def parse_role(given: Given) -> Role:
    """Return the role that --role names."""
    return Role(given.text("--role"))


class NotOfferedError(OrchestratorError):
    """The original has it; nothing that this cluster stands on does. The message says what."""

    code = "not-offered"
