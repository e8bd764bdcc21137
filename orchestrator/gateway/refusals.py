"""Who is turned away, and how often that is said: a log is not to be filled by who is refused."""

from __future__ import annotations

import logging
from typing import Final

from orchestrator.gateway.peers import Peer
from orchestrator.model.clock import Clock

SILENCE_S: Final = 10.0
_log = logging.getLogger("cloister.gateway")


class Refusals:
    """Counts them; of each Unix user, one in `SILENCE_S` is logged, with how many were not."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quiet: dict[int, tuple[float, int]] = {}  # uid: until when, and what was not said
        self.count = 0

    def note(self, peer: Peer, reason: str) -> None:
        """A peer was refused."""
        self.count += 1
        now = self._clock.monotonic_s()
        until_s, unsaid = self._quiet.get(peer.uid, (now, 0))
        if now < until_s:
            self._quiet[peer.uid] = until_s, unsaid + 1
            return
        # As many users as there are could be refused once each: nobody is kept who is quiet again.
        self._quiet = {uid: quiet for uid, quiet in self._quiet.items() if now < quiet[0]}
        self._quiet[peer.uid] = now + SILENCE_S, 0
        more = f"; {unsaid} more since this was last said" if unsaid else ""
        _log.warning("refused uid %d (process %d): %s%s", peer.uid, peer.pid, reason, more)
