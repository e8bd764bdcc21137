"""A ledger rebuilt from what the HSMs hold.

Invariants: a chain that extends all others is continued; of true branches an admin chooses one:
length decides nothing. What only some HSMs hold is offered to the others before it becomes the
ledger: they can tell an entry from a forgery, and the controller cannot.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.client.connection import expect
from orchestrator.control.ledger import Ledger
from orchestrator.control.roster import Roster
from orchestrator.model.entries import Entry
from orchestrator.model.errors import (
    ForkedError,
    OrchestratorError,
    RemoteError,
    TamperedError,
    UnavailableError,
)
from orchestrator.wire import messages as m

_DATABASE = "the database"
_REMEDY = (
    "choose whose branch goes on: `cloister cluster adopt --hsm ID`; the others of its branch must "
    "be deleted and created anew"
)


class Adopting:
    """Reads every HSM's chain and writes the ledger that follows from them."""

    def __init__(
        self, ledger: Ledger, roster: Roster, offer: Callable[[str, list[Entry], int], int]
    ) -> None:
        self._ledger, self._roster, self._offer = ledger, roster, offer

    def adopt(self, chosen: str | None) -> int:
        """Rebuild the ledger; return where it stands then.

        Raises:
            ForkedError: there are branches, and none was chosen.
            TamperedError: a chain is broken, or holds what another HSM refuses as forged.
        """
        chains = self._chains(chosen)
        if chosen is not None:
            if chosen not in chains:
                raise UnavailableError(f"{chosen} does not answer, or holds no entries")
            wanted = _with_past(chains[chosen], chains)
        else:
            wanted = _follows(_merged(chains), "the HSMs together")
        self._confirm(wanted, chains)
        self._ledger.replace(wanted)
        return self._ledger.head().seq

    def _confirm(self, wanted: list[Entry], chains: dict[str, list[Entry]]) -> None:
        """Have those whose chains the wanted one extends take what they lack."""
        hashes = {entry.parse_header().seq: entry.hash for entry in wanted}
        for hsm, chain in chains.items():
            seq = chain[-1].parse_header().seq
            tail = [entry for entry in wanted if entry.parse_header().seq > seq]
            if hsm == _DATABASE or not tail or hashes.get(seq) != chain[-1].hash:
                continue
            try:
                self._offer(hsm, tail, seq)
            except RemoteError as exc:
                if exc.retryable:
                    continue
                holders = ", ".join(h for h, c in chains.items() if len(c) and c[-1] in tail)
                raise TamperedError(
                    f"{hsm} refuses what {holders} holds after {seq} ({exc.code}: {exc}); {_REMEDY}"
                ) from exc
            except OrchestratorError:
                continue  # out of reach by now, or too far behind to say

    def _chains(self, chosen: str | None) -> dict[str, list[Entry]]:
        chains: dict[str, list[Entry]] = {}
        for hsm, welcome in self._roster.hear().welcomes.items():
            if not welcome.cluster or welcome.removed:
                continue
            try:
                if chain := self._read(hsm, welcome):
                    chains[hsm] = chain
            except TamperedError:
                if chosen in {None, hsm}:
                    raise  # else it has no voice
        try:
            rows = _follows(self._ledger.after(0, 1_000_000), _DATABASE)
            if rows and chains:
                chains[_DATABASE] = rows
        except OrchestratorError:
            pass  # a damaged database has no voice
        return chains

    def _read(self, hsm: str, welcome: m.Welcome) -> list[Entry]:
        chain: list[Entry] = []
        after = 0
        while page := expect(self._roster.call(hsm, m.Entries(after)), m.EntryPage).entries:
            chain = [*chain[:-1], *_follows([*chain[-1:], *page], hsm)]
            after = chain[-1].parse_header().seq
        if chain and chain[-1].hash != welcome.head:
            raise TamperedError(f"the chain of {hsm} does not end where it says it stands")
        return chain


def _merged(chains: dict[str, list[Entry]]) -> list[Entry]:
    merged: dict[int, Entry] = {}
    owner: dict[int, str] = {}
    for hsm, chain in chains.items():
        for entry in chain:
            seq = entry.parse_header().seq
            if seq in merged and merged[seq].hash == entry.hash and entry.is_erased:
                continue
            if seq in merged and merged[seq].hash != entry.hash:
                raise ForkedError(
                    f"{hsm} and {owner[seq]} hold different entries at {seq}; {_REMEDY}"
                )
            merged[seq], owner[seq] = entry, hsm
    return [merged[seq] for seq in sorted(merged)]


def _with_past(chain: list[Entry], chains: dict[str, list[Entry]]) -> list[Entry]:
    """Put before a chain what others hold of its past: an HSM keeps what came since it joined."""
    first = chain[0].parse_header()
    for other in chains.values():
        past = [entry for entry in other if entry.parse_header().seq < first.seq]
        if past and past[-1].hash == first.prev:
            return _with_past([*past, *chain], chains)
    return chain


def _follows(chain: list[Entry], whose: str) -> list[Entry]:
    """Return the chain if each entry follows the one before."""
    seq, prev = None, b""
    for entry in chain:
        header = entry.parse_header()
        if seq is not None and (header.seq, header.prev) != (seq + 1, prev):
            raise TamperedError(f"the chain of {whose} breaks before entry {header.seq}; {_REMEDY}")
        seq, prev = header.seq, entry.hash
    return chain
