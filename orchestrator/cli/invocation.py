"""One run of a command: what it may call, and how it asks and answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from orchestrator.cli import credentials, files, render
from orchestrator.cli.errors import CancelledError, ConfirmationNeededError
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.ids import BackupId, ClusterId, HsmId
from orchestrator.model.roles import Role

if TYPE_CHECKING:
    from orchestrator.client.session import Session
    from orchestrator.control.backups import Backups
    from orchestrator.control.changes import Changes
    from orchestrator.control.inspection import Inspection
    from orchestrator.control.membership import Membership
    from orchestrator.control.plane import ControlPlane
    from orchestrator.control.recovery import Recovery
    from orchestrator.model.profile import FirmwareProfile


class OutputFormat(StrEnum):
    """What results look like."""

    TABLE = "table"
    JSON = "json"


class Services:
    """What commands stand on, loaded when first used: `--help` must not wait for it."""

    def home(self) -> Path:
        """Return the state directory, made if there is none yet."""
        from orchestrator.lab.layout import check_home, home

        return check_home(home())

    def plane(self) -> ControlPlane:
        """Open the control plane on the embedded lab's hosts."""
        from orchestrator.control.plane import ControlPlane
        from orchestrator.lab.hosts import LabHosts

        home = self.home()
        return ControlPlane.open(home, LabHosts(home))

    def backups(self, plane: ControlPlane) -> Backups:
        """Return the vault."""
        from orchestrator.control.backups import Backups

        return Backups(plane)

    def inspection(self, plane: ControlPlane) -> Inspection:
        """Return what verifies clusters."""
        from orchestrator.control.inspection import Inspection

        return Inspection(plane)

    def membership(self, plane: ControlPlane) -> Membership:
        """Return what makes and ends HSMs."""
        from orchestrator.control.membership import Membership

        return Membership(plane)

    def recovery(self, plane: ControlPlane) -> Recovery:
        """Return what restores clusters."""
        from orchestrator.control.recovery import Recovery

        return Recovery(plane)

    def profiles(self) -> dict[str, FirmwareProfile]:
        """Return the firmware profiles."""
        from orchestrator.control.profiles import load_profiles

        return load_profiles()

    def lab(self) -> ModuleType:
        """Return the embedded lab's functions."""
        from orchestrator.lab import lab

        return lab

    def gateway(self) -> ModuleType:
        """Return the PKCS#11 gateway."""
        return import_module("orchestrator.gateway.main")

    def demo(self) -> ModuleType:
        """Return the demo."""
        return import_module("orchestrator.lab.demo")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Starting:
    """What `main` knows before it parses."""

    services: Services
    login: credentials.GivenLogin
    destination: credentials.GivenLogin = field(default_factory=credentials.GivenLogin)


class Invocation:
    """One run of a command; closes what it has opened."""

    def __init__(
        self,
        starting: Starting,
        *,
        output: OutputFormat,
        cluster_id: str | None = None,
        pin_file: Path | None = None,
        request: str | None = None,
        yes: bool = False,
    ) -> None:
        self.services = starting.services
        self.given_login = starting.login
        self.is_json = output is OutputFormat.JSON
        self.request = request
        self.cluster_prefix = cluster_id
        self.destination_login = starting.destination
        self._pin_file = pin_file
        self._yes = yes
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close connections and the database."""
        self.close()

    def close(self) -> None:
        """Close connections and the database; what is asked for afterwards is opened anew."""
        self._open.close()
        self.__dict__.pop("plane", None)

    @cached_property
    def plane(self) -> ControlPlane:
        """The control plane, opened on first use."""
        plane = self.services.plane()
        self._open.callback(plane.close)
        return plane

    @cached_property
    def backups(self) -> Backups:
        """The vault."""
        return self.services.backups(self.plane)

    @cached_property
    def inspection(self) -> Inspection:
        """What verifies clusters."""
        return self.services.inspection(self.plane)

    @cached_property
    def membership(self) -> Membership:
        """What makes and ends HSMs."""
        return self.services.membership(self.plane)

    def go_on_with(self, cluster: str) -> None:
        """Let the next step name a new cluster, if it is not the only one."""
        is_only = len(self.plane.records.clusters()) == 1
        self.cluster_prefix = None if is_only else cluster

    @cached_property
    def cluster_id(self) -> ClusterId:
        """The chosen cluster."""
        return self.plane.records.resolve_cluster(self.cluster_prefix)

    def hsm(self, prefix: str) -> tuple[ClusterId, HsmId]:
        """Return the HSM whose id starts with `prefix`, and its cluster."""
        cluster = self.cluster_id if self.cluster_prefix else None
        return self.plane.records.resolve_hsm(cluster, prefix)

    def backup(self, prefix: str) -> BackupId:
        """Return the backup whose id starts with `prefix`."""
        return self.plane.records.resolve_backup(prefix)

    def login(self, natural: Role | None) -> credentials.Login:
        """Find out who acts; `natural` is the role this command is for."""
        return credentials.find_login(self.given_login, self._pin_file, natural)

    def session(self, natural: Role | None) -> Session:
        """Log in."""
        login = self.login(natural)
        try:
            session = self.plane.login(self.cluster_id, login.role, login.name, login.password)
        except OrchestratorError as exc:
            if exc.code != "mfa-required" or not credentials.is_interactive():
                raise
            session = self._login_with_factor(login)
        self._open.callback(session.close)
        return session

    def _login_with_factor(self, login: credentials.Login) -> Session:
        """Have the second factor sign a file that lasts no longer than the log-in."""
        from orchestrator.sealed.token_files import PossessionFile

        cluster, role, name = self.cluster_id, login.role, login.name
        asked = self.plane.mfa_challenges(cluster, role, name)
        with TemporaryDirectory(prefix="cloister-mfa-") as directory:
            path = Path(directory) / "token.json"
            files.write_new(path, asked.pack(), mode=0o600)
            sys.stderr.write(
                f"{name} has a second factor. Sign every `unsigned` in\n  {path}\n"
                "and put the signatures, in base64, into `signed`.\n"
            )
            signed = Path(credentials.ask("Signed file", str(path)))
            factor = PossessionFile.parse(files.read(signed), asked)
        return self.plane.login_mfa(cluster, role, name, login.password, factor)

    def changes(self, natural: Role) -> Changes:
        """Log in to change something."""
        return self.plane.changes(self.cluster_id, self.session(natural))

    def confirm(self, question: str) -> None:
        """Return if the person agrees or `--yes` was given, else raise."""
        if self._yes:
            return
        if not credentials.is_interactive():
            raise ConfirmationNeededError(f"without a terminal give --yes: {question}")
        if credentials.ask(f"{question} (yes/no)", "no").lower() not in {"y", "yes"}:
            raise CancelledError("nothing was done")

    def progress(self, what: str) -> AbstractContextManager[None]:
        """Show that something slow goes on."""
        return render.progress(what)

    def say(self, line: str) -> None:
        """Write a line of progress to stderr, where it disturbs no result."""
        if not self.is_json:
            sys.stderr.write(line + "\n")

    def warn(self, text: str) -> None:
        """Say something on stderr that is no error."""
        if self.is_json:
            render.write_json_line({"warning": text}, sys.stderr)
        else:
            sys.stderr.write(f"warning: {text}\n")

    def show(
        self,
        data: object,
        *,
        brief: object = None,
        columns: Sequence[str] = (),
        next_step: str = "",
    ) -> None:
        """Show the result.

        Args:
            data: what JSON output holds.
            brief: what tables show instead, where `data` is too long to read.
            columns: see `render.write_tables`.
            next_step: the command that usually comes next; tables end with it.
        """
        if self.is_json:
            render.write_json(data, sys.stdout)
            return
        render.write_tables(brief or data, columns, sys.stdout)
        if next_step:
            self.show_next(next_step, sys.stdout)

    def show_next(self, step: str, out: TextIO) -> None:
        """Name the command that usually comes next, for the same cluster."""
        chosen = f" --cluster-id {self.cluster_prefix}" if self.cluster_prefix else ""
        out.write(f"\nnext: cloister {step}{chosen}\n")
