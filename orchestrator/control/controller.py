"""The controller: the only writer of a cluster's ledger.

Invariants: the ledger's insert is the only commit point; a request that is in doubt is looked up
and never made a second time; token work is never repeated for a lost race; every change ends as
done, refused or pending.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median_low
from typing import Final, TypeVar

from orchestrator.client.connection import expect
from orchestrator.control.adopting import Adopting
from orchestrator.control.ledger import Head, Ledger
from orchestrator.control.roster import Heard, Roster
from orchestrator.control.views import ChangeReport
from orchestrator.model.clock import Clock
from orchestrator.model.entries import Approval, Entry
from orchestrator.model.errors import (
    ForkedError,
    MovedOnError,
    NotFoundError,
    OrchestratorError,
    PendingError,
    RefusedError,
    RemoteError,
    TamperedError,
    UnavailableError,
)
from orchestrator.model.keys import Key
from orchestrator.model.steps import OnStep, Step, no_step
from orchestrator.wire import messages as m

MINIMUM: Final = 2
ATTEMPTS: Final = 100
GOSSIP_TIMEOUT_S: Final = 1.0
CLOCK_SLACK_MS: Final = 60_000
_PAGE: Final = 256

T = TypeVar("T")
Ask = Callable[[str], m.ChangeRequest]
"""Builds what is asked of the HSM with this id: passwords are sealed to it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A change that is done, the keys it made, and what else it made (see `Committed`)."""

    report: ChangeReport
    keys: tuple[Key, ...] = ()
    data: bytes = b""


class Controller:
    """Prepares, commits and pushes changes of one cluster."""

    def __init__(
        self,
        cluster: str,
        ledger: Ledger,
        roster: Roster,
        clock: Clock,
        on_step: OnStep = no_step,
    ) -> None:
        self.cluster, self.ledger, self.roster, self._on_step = cluster, ledger, roster, on_step
        self._clock = clock
        self._has_heard_enough = False
        self._erased = 0

    # --- a change ---

    def change(
        self,
        ask: Ask,
        *,
        ticket: bytes = b"",
        request: str | None = None,
        seen: int = 0,
        author: str | None = None,
        leaving: str = "",
        approval: Approval | None = None,
    ) -> Outcome:
        """Carry a change through to its outcome.

        Args:
            ask: builds the change for the HSM that prepares it.
            ticket: of the user who asks, empty for the appliance user.
            request: an id to repeat a request by; a repeated one is answered, not made again.
            seen: the highest place in the ledger that the caller has heard of.
            author: the HSM that shall prepare it; None takes any member in reach.
            leaving: the HSM that the change removes: dead or forked, it has no say in it.
            approval: of other people, spent with the change.

        Raises:
            RemoteError: refused; nothing changed.
            UnavailableError: too few HSMs in reach; nothing changed.
            PendingError: committed, too few hold it yet; ask again with the same request id.
            ForkedError: an HSM is ahead of the ledger or off its chain; changes are frozen.
        """
        request = request or uuid.uuid4().hex
        if (entry := self.ledger.find(request)) is None:
            heard = self.roster.hear(hsm for hsm in self.roster.hsms() if hsm != leaving)
            self._check_reach(heard, leaving)
            entry = self._prepare_and_commit(ask, ticket, request, seen, heard, author, approval)
            return self.settle(entry, list(heard.welcomes))  # who is silent is not waited for twice
        return self.settle(entry)

    def members(self, heard: Heard) -> list[str]:
        """Return the member HSMs as the most advanced HSM in reach knows them."""
        best = max(heard.welcomes, key=lambda hsm: heard.welcomes[hsm].seq, default=None)
        if best is None or not heard.welcomes[best].cluster:
            return []
        page = expect(self.roster.call(best, m.ListMembers()), m.MemberPage)
        return [member.hsm for member in page.members]

    def minimum(self, members: list[str]) -> int:
        """Return how many HSMs must hold a change before it is done."""
        return min(MINIMUM, len(members))

    def _check_reach(self, heard: Heard, leaving: str) -> None:
        members = self.members(heard)
        within = [hsm for hsm in members if hsm in heard.welcomes]
        self._check_fork(heard)
        minimum = self.minimum([hsm for hsm in members if hsm != leaving])
        # A controller that has just come may follow a database that was put back: enough members
        # to meet every set that confirmed a change must be heard before the first one.
        first = len(members) - self.minimum(members) + 1
        wanted = minimum if self._has_heard_enough else max(minimum, first)
        if not members or len(within) < wanted:
            names = ", ".join(sorted(set(members) - set(within)) or heard.silent)
            raise UnavailableError(
                f"{len(within)} of {len(members)} HSMs are in reach, a change needs {wanted}; "
                f"missing: {names or 'all'}. Nothing has changed"
            )
        self._has_heard_enough = True

    def _check_fork(self, heard: Heard) -> None:
        head = self.ledger.head()
        for hsm, welcome in heard.welcomes.items():
            if welcome.removed or not welcome.cluster:
                continue
            if problem := self.off_chain(head, welcome.seq, welcome.head):
                raise ForkedError(
                    f"FORKED: {hsm} {problem}. Changes are frozen, keys stay usable; see "
                    "`cloister cluster verify`, then `cloister cluster adopt`"
                )

    def off_chain(self, head: Head, seq: int, chain: bytes) -> str:
        """Return why an HSM whose chain ends so is off the ledger's, empty when it is on it."""
        if seq > head.seq:
            # Another controller may have committed since `head` was read.
            head = self.ledger.head()
        if seq > head.seq:
            return f"is at {seq}, ahead of the ledger at {head.seq}"
        page = self.ledger.after(seq - 1, 1)
        if page and page[0].parse_header().seq == seq and page[0].hash != chain:
            return f"holds another entry at {seq} than the ledger"
        return ""

    def _prepare_and_commit(  # the parts of one change
        self,
        ask: Ask,
        ticket: bytes,
        request: str,
        seen: int,
        heard: Heard,
        author: str | None,
        approval: Approval | None,
    ) -> Entry:
        authors = [author] if author else self._authors(heard)
        last: OrchestratorError = UnavailableError("no HSM can prepare the change")
        for hsm in authors:
            if off_s := self.clock_error_s(heard, hsm):
                last = UnavailableError(
                    f"the clock of {hsm} is off by {off_s} s, so it prepares nothing; set it"
                )
                continue
            asked: m.ChangeRequest | None = None
            for _ in range(ATTEMPTS):
                try:
                    self.catch_up(hsm)
                    asked = asked or ask(hsm)
                    prepare = m.Prepare(ticket, request, asked, seen, approval)
                    reply = self.roster.call(hsm, prepare)
                    return self._commit(expect(reply, m.Prepared).entry, request)
                except MovedOnError as exc:
                    last = exc  # only check and signature are repeated: the HSM keeps the work
                except RemoteError as exc:
                    if not exc.retryable:
                        raise
                    last = exc
                    break
                except UnavailableError as exc:
                    last = exc
                    break
            else:
                raise last  # another HSM would make the key a second time, and lose as well
        raise last

    def clock_error_s(self, heard: Heard, hsm: str) -> int:
        """Return how far an HSM's clock is off what most clocks say (s), 0 within the slack."""
        clocks = [*(w.at for w in heard.welcomes.values()), self._clock.now_ms()]
        welcome = heard.welcomes.get(hsm)
        off_ms = welcome.at - median_low(clocks) if welcome else 0
        return off_ms // 1000 if abs(off_ms) > CLOCK_SLACK_MS else 0

    def _authors(self, heard: Heard) -> list[str]:
        members = set(self.members(heard))
        able = [hsm for hsm in heard.welcomes if hsm in members]
        return sorted(able, key=lambda hsm: -heard.welcomes[hsm].seq)

    def _commit(self, entry: Entry, request: str) -> Entry:
        self._on_step(Step.COMMIT_BEGIN)
        try:
            self.ledger.commit(entry)
        except MovedOnError:
            if (found := self.ledger.find(request)) is not None:
                return found
            raise
        except UnavailableError:
            # In doubt: the row tells.
            if (found := self.ledger.find(request)) is not None:
                return found
            raise
        self._on_step(Step.COMMIT_DONE)
        return entry

    def settle(self, entry: Entry, within: Iterable[str] | None = None) -> Outcome:
        """Push a committed entry and tell how many hold it.

        Args:
            entry: committed.
            within: the HSMs that are in reach; None asks them all.

        Raises:
            PendingError: fewer than the minimum.
        """
        header = entry.parse_header()
        hsms = self.roster.hsms() if within is None else within
        results = self.roster.each(hsms, lambda hsm: self._push(hsm, header.seq))
        self._on_step(Step.PUSH_ONE)
        holding = [
            hsm for hsm, seq in results.items() if isinstance(seq, int) and seq >= header.seq
        ]
        members = self.members(self.roster.hear(holding)) if holding else []
        held = [hsm for hsm in holding if hsm in members]
        minimum = self.minimum(members) if members else MINIMUM
        if len(held) < minimum:
            raise PendingError(header.request, len(held), minimum)
        missing = tuple(sorted(set(members) - set(held)))
        report = ChangeReport(header.request, header.seq, len(held), len(members), missing)
        made = self._made(held, header.request)
        return Outcome(report, made.keys, made.data) if made else Outcome(report)

    def _push(self, hsm: str, seq: int) -> int:
        reached = self.catch_up(hsm)
        if reached < seq:
            raise UnavailableError(f"{hsm} stays at {reached}")
        return reached

    def _made(self, held: list[str], request: str) -> m.Committed | None:
        for hsm in held:
            try:
                return expect(self.roster.call(hsm, m.Outcome(request)), m.Committed)
            except (NotFoundError, RemoteError, UnavailableError):
                continue
        return None

    def ask_best(self, request: m.Request, kind: type[T]) -> T:
        """Ask the most advanced HSM in reach.

        Raises:
            UnavailableError: none answers.
        """
        heard = self.roster.hear()
        best = max(heard.welcomes, key=lambda hsm: heard.welcomes[hsm].seq, default=None)
        if best is None:
            raise UnavailableError(f"no HSM of {self.cluster} answers; see `cloister hsm list`")
        return expect(self.roster.call(best, request), kind)

    # --- catching up ---

    def catch_up(self, hsm: str) -> int:
        """Offer an HSM what it lacks; return where it stands then.

        Raises:
            RemoteError: it refuses an entry (`forked`, `tampered`).
            UnavailableError: it does not answer.
        """
        welcome = expect(self.roster.call(hsm, m.Hello(), 3.0), m.Welcome)
        seq = welcome.seq
        if not welcome.cluster and seq == 0:
            return 0
        while page := self.ledger.after(seq, _PAGE):
            seq = self.offer(hsm, page, seq)
        return seq

    def offer(self, hsm: str, page: list[Entry], seq: int) -> int:
        """Offer entries in frames that fit; return where the HSM stands then."""
        frame: list[Entry] = []
        room = 900 * 1024
        for number, entry in enumerate(page, start=1):
            if entry.is_erased:
                raise RefusedError(
                    "too-far-behind",
                    f"{hsm} is at {seq}, and what came next is erased: delete this HSM and create "
                    "another",
                )
            frame.append(entry)
            room -= len(entry.body) + len(entry.header) + 128
            if room < 300 * 1024 or number == len(page):
                reply = expect(self.roster.call(hsm, m.Apply(tuple(frame))), m.Applied)
                if reply.seq < frame[-1].parse_header().seq:
                    raise TamperedError(f"{hsm} stays at {reply.seq}: it lacks what came before")
                seq, frame, room = reply.seq, [], 900 * 1024
        return seq

    def heal(self) -> list[str]:
        """One pass over all HSMs: bring on those that are behind, carry out counted locks.

        Raises:
            OrchestratorError: of the last HSM that could not be helped; the others were.
        """
        done: list[str] = []
        trouble: OrchestratorError | None = None
        for hsm, welcome in self.roster.hear().welcomes.items():
            if not welcome.cluster or welcome.removed:
                continue
            try:
                reached = self.catch_up(hsm)
                if reached != welcome.seq:
                    done.append(f"{hsm} caught up from {welcome.seq} to {reached}")
                wanted = expect(self.roster.call(hsm, m.Pending()), m.PendingChanges)
                for request, lock in wanted.changes:
                    self.change(_same(lock), request=request, author=hsm)
                    done.append(f"{lock.role} {lock.name} is locked on every HSM")
            except OrchestratorError as exc:
                trouble = exc
        if trouble is not None:
            raise trouble
        return done

    def gossip(self) -> None:
        """Tell every HSM in reach which wrong passwords the others have counted."""
        asked = self.roster.each(
            self.roster.hsms(), lambda hsm: self.roster.call(hsm, m.Pending(), GOSSIP_TIMEOUT_S)
        )
        tries = {h: r.tries for h, r in asked.items() if isinstance(r, m.PendingChanges)}
        if not any(tries.values()):
            return
        for known in (False, True):  # first everybody hears, then who counted may answer
            telling = {
                hsm: m.TellTries((), own)
                if known
                else m.TellTries(tuple(t for h, ts in tries.items() if h != hsm for t in ts))
                for hsm, own in tries.items()
            }
            self.roster.each(
                telling,
                lambda hsm, t=telling: self.roster.call(hsm, t[hsm], GOSSIP_TIMEOUT_S),  # type: ignore[misc]
            )

    def erase_bodies(self, upto: int) -> int:
        """Erase what entries said up to a snapshot's place, everywhere; return the place reached.

        An entry that some member has not applied keeps its body, and so do all after it; nothing
        is erased while a member is out of reach.
        """
        heard = self.roster.hear()
        members = self.members(heard)
        if not members or not all(hsm in heard.welcomes for hsm in members):
            return 0
        self._check_fork(heard)
        place = min(upto, *(heard.welcomes[hsm].seq for hsm in members))
        if place > self._erased and place > self.ledger.erased():
            self.ledger.erase_bodies(place)
            self._on_step(Step.BODIES_ERASED)
        self._erased = place
        for hsm in members:
            if heard.welcomes[hsm].erased < place:
                self.roster.call(hsm, m.EraseBodies(place))
        return place

    def adopt(self, chosen: str | None) -> int:
        """Rebuild the ledger from the HSMs' chains; return where it stands then."""
        return Adopting(self.ledger, self.roster, self.offer).adopt(chosen)


def _same(change: m.ChangeRequest) -> Ask:
    return lambda _: change
