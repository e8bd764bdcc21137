"""Backups that nobody asked for: at activation, and when an HSM has joined or left.

Invariant: what is due follows from the ledger and the backups that there are, each time anew, so
that a backup that a crash or an absent HSM prevented is made later, and once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.control.backups import Backups
from orchestrator.control.plane import ControlPlane

MILESTONES: Final = frozenset(
    {"cluster-activated", "cluster-restored", "hsm-joined", "hsm-removed"}
)
_PAGE: Final = 500


@dataclass(slots=True)
class _Seen:
    """How far the ledger was read, and the last milestone up to there."""

    seq: int = 0
    milestone: int = 0
    kind: str = ""


class AutomaticBackups:
    """Makes the backups that are due. One process of a home does this."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane, self._backups = plane, Backups(plane)
        self._seen: dict[str, _Seen] = {}

    def turn(self, cluster: str) -> str:
        """Make a cluster's backup if one is due; return its id, or nothing.

        Bodies of entries that a backup holds are erased where that could not be done at once.
        """
        ledger = self._plane.controller(cluster).ledger
        seen = self._seen.setdefault(cluster, _Seen())
        if ledger.head().seq < seen.seq:  # adopted anew
            seen = self._seen[cluster] = _Seen()
        while page := ledger.after(seen.seq, _PAGE):
            for entry in page:
                header = entry.parse_header()
                seen.seq = header.seq
                if header.kind in MILESTONES:
                    seen.milestone, seen.kind = header.seq, header.kind
        newest = self._backups.newest_seq(cluster)
        if newest < seen.milestone:
            return self._backups.create(cluster, f"automatic: {seen.kind}").backup_id
        if newest:
            self._plane.controller(cluster).erase_bodies(newest)
        return ""
