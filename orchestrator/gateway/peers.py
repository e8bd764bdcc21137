"""Who may use a gateway: rules over what the kernel says of the other end of a socket."""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from orchestrator.model.errors import NotFoundError

_CREDENTIALS: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59  # Linux 4.13; Python names it not
_GROUPS_BYTES: Final = 1024  # as much as Python's getsockopt takes: 256 groups


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def user(self) -> tuple[int, frozenset[int]]:
        """Return what two processes of one Unix user have in common."""
        return self.uid, self.groups


@dataclass(frozen=True, slots=True)
class PeerRules:
    """Users and groups that are let in; where neither is named, whoever may open the socket."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, users: Iterable[str], groups: Iterable[str]) -> PeerRules:
        """Take names or numbers; raise NotFoundError for a name that this host does not know."""
        return cls(
            frozenset(user_id(name) for name in users), frozenset(group_id(name) for name in groups)
        )

    def admits(self, peer: Peer) -> bool:
        """Tell whether a peer is let in."""
        if not self.users and not self.groups:
            return True
        return peer.uid in self.users or not self.groups.isdisjoint(peer.groups)


def user_id(name: str) -> int:
    """Return a user's number."""
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise NotFoundError("user", name, "name a user of this host, or a uid") from None


def group_id(name: str) -> int:
    """Return a group's number."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise NotFoundError("group", name, "name a group of this host, or a gid") from None


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected, as the kernel saw it then.

    Raises:
        OSError: it is in more groups than can be read; such a peer is let in nowhere.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"{len(raw) // 4}I", raw)}))
