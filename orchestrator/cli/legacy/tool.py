"""One run of a legacy tool: the console, the server that is selected, approvals taken along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import files
from orchestrator.cli.cloudhsm.console import Console
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.errors import CancelledError
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import Dialect, LegacyCommand, modern
from orchestrator.control.views import HsmState, HsmView
from orchestrator.model.errors import NotFoundError, RefusedError, UnavailableError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.roles import Role

if TYPE_CHECKING:
    from orchestrator.model.ids import ClusterId
    from orchestrator.model.keys import Key

PAGE_KEYS: Final = 1000
CAUTION: Final = """\
*************************CAUTION********************************
This is a CRITICAL operation: it changes who may do what, on all
HSMs of the cluster. An HSM that is out of reach now catches up
when it answers again; nothing has to be repeated there.
****************************************************************
"""


@dataclass(frozen=True, slots=True)
class Server:
    """An HSM and its number: its place among the cluster's HSMs, the oldest first."""

    number: int
    hsm: HsmView

    @property
    def shown(self) -> str:
        """Return number and name."""
        return f"server {self.number}({self.hsm.hsm_id})"

    @property
    def is_up(self) -> bool:
        """Tell whether it answers and holds every change."""
        return self.hsm.state is HsmState.ACTIVE


class Tool:
    """What handlers act on."""

    def __init__(self, dialect: Dialect, console: Console) -> None:
        self.dialect, self.console = dialect, console
        self.selected: int | None = None
        self._approval: Path | None = None

    @property
    def cluster(self) -> ClusterId:
        """Return the cluster: the only one, or where the environment or the login is."""
        return self.console.cluster(modern({}))

    def servers(self) -> list[Server]:
        """Return the cluster's servers, or the one that is selected."""
        found = [
            Server(number, hsm) for number, hsm in enumerate(self.console.plane.hsms(self.cluster))
        ]
        return [s for s in found if self.selected in {None, s.number}]

    def server(self, number: int) -> Server:
        """Return one server."""
        for server in self.servers():
            if server.number == number:
                return server
        raise NotFoundError("server", str(number), "see getHSMInfo")

    # --- changes ---

    def check(self, command: LegacyCommand) -> None:
        """Refuse a change while one server is selected; ask before a critical one."""
        if command.changes and self.selected is not None:
            raise RefusedError(
                "server-mode",
                "a change is made on all HSMs or on none, so that they cannot drift apart; exit "
                "leaves the mode that looks at one server",
            )
        if command.is_critical:
            sys.stdout.write(f"{CAUTION}\n")
            sys.stdout.flush()
            if self.console.ask("Do you want to continue(y/n)?").lower() not in {"y", "yes"}:
                raise CancelledError("not confirmed; nothing was changed")

    def approve_with(self, path: Path) -> None:
        """Take a signed token along to the next change."""
        self._approval = path

    def approval(self) -> str | None:
        """Give the approval to a change; it is not kept for another."""
        path, self._approval = self._approval, None
        return str(path) if path is not None else None

    # --- keys and users ---

    def key(self, handle: str) -> Key:
        """Return the key with a handle."""
        return self.console.find_key(by_handle(handle))

    def all_keys(self, key_filter: KeyFilter) -> Iterator[Key]:
        """Yield every key that a filter matches."""
        offset = 0
        while True:
            page = self.console.list_keys(modern({}), key_filter, offset, PAGE_KEYS)
            yield from page.keys
            offset += len(page.keys)
            if not page.keys or offset >= page.total:
                return

    def user_names(self, ids: str | None) -> tuple[str, ...]:
        """Return the names of users whose numbers are listed, separated by commas."""
        if ids is None:
            return ()
        users = self.console.plane.users(self.cluster)
        return tuple(numbers.named_by(users, text).name for text in ids.split(","))

    def owner_lines(self, key: Key) -> list[str]:
        """Return whose a key is, as both tools print it."""
        kind = "Token/Flash Key" if key.attributes.token else "Session Key"
        lines = [
            f"        {kind},",
            f"        Owned by user {_user(key.owner)}",
            f"        Key quorum: use {key.use_quorum}, manage {key.manage_quorum}",
        ]
        if key.shared and key.key_class.value != "public-key":
            lines.append(f"        also, shared to following {len(key.shared)} user(s):")
            lines += [f"                {_user(name)}" for name in key.shared]
        return lines

    def user_rows(self) -> list[str]:
        """Return the table of users. How many logins failed is not told, only that one is locked.

        Every HSM that is up has the same users.
        """
        head = ("User Id", "User Type", "User Name", "MofnPubKey", "LoginFailureCnt", "2FA")
        rows = [
            (
                str(numbers.user_id(user.role, user.name)),
                numbers.type_name(user.role),
                user.name,
                "YES" if user.quorum else "NO",
                "LOCKED" if user.locked else "DISABLED" if user.disabled else "-",
                "YES" if user.mfa else "NO",
            )
            for user in self.console.plane.users(self.cluster)
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        return [
            "    " + "   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in [head, *rows]
        ]

    def certificate(self, number: str) -> bytes:
        """Return a certificate by its number, PEM."""
        wanted = numbers.parse_number(number, "the type of certificate")
        if wanted == numbers.CUSTOMER_ROOT:
            return files.read(self.console.plane.published(self.cluster) / "anchor.pem")
        if wanted != numbers.CLUSTER_CERTIFICATE:
            raise RefusedError(
                "no-such-certificate",
                f"certificate {number} does not exist: no manufacturer signs HSMs here; there are "
                f"4 (root that the customer trusts) and 8 (the cluster's certificate)",
            )
        heard = self.console.plane.controller(self.cluster).roster.hear()
        for server in self.servers():
            welcome = heard.welcomes.get(server.hsm.hsm_id)
            if welcome is not None and welcome.certificate:
                return _pem(welcome.certificate)
        raise UnavailableError("no HSM answers that has the cluster's certificate")


def by_handle(handle: str) -> Given:
    """Return the filter that selects a key by its handle."""
    number = numbers.parse_number(handle, "a key handle")
    return modern({"--filter": f"key-reference=0x{number:x}"})


def handle(key: Key) -> str:
    """Return a key's handle as the tools print it."""
    return str(key.ref)


def _pem(certificate: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    from orchestrator.model.signatures import load_certificate

    return load_certificate(certificate, "the cluster certificate").public_bytes(Encoding.PEM)


def _user(name: str) -> str:
    return f"{numbers.user_id(Role.CRYPTO_USER, name)} ({name})"
