"""Which HSM gets a request: of those that are well, the one that will be done with it first.

That is told from the requests under way there, and from how long it took with its latest ones.

Invariants: a request that is safe to repeat goes to another HSM when one fails, until none is
left or its time is up; a failed HSM is left alone for a moment, longer each time.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.client.channel import Channel, OnReply
from orchestrator.client.trust import check_hsm
from orchestrator.model.clock import Clock
from orchestrator.model.entries import Member
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    RemoteError,
    TamperedError,
    UnavailableError,
)
from orchestrator.wire.messages import Hello, Login, Refusal, Reply, Request, Welcome

REQUEST_TIMEOUT_S: Final = 10.0
HELLO_TIMEOUT_S: Final = 3.0
PATIENCE_S: Final = 30.0
LOOK_AGAIN_S: Final = 1.0
_FASTER: Final = 0.3
_SLOWER: Final = 0.05
"""Weights of the latest request in the moving average of an HSM's service time."""
_ACCIDENT: Final = 4.0
_PROBE_S: Final = 1.0
"""How long an HSM is passed over for being slow, until it is asked once more."""
_LEAST_S: Final = 5e-5
"""What an HSM is taken to need that has not been measured: they share until they have."""
_UNWELL_S: Final = 1e6
_DICE: Final = random.SystemRandom()
_PENALTY_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)

Dial = Callable[[], Channel]
Source = Callable[[], Mapping[str, Dial]]
"""Tells which HSMs there are now, and how to reach them."""
Watch = Callable[[Channel], None]
"""Takes over the reading of a new link, by `Channel.pump`."""


@dataclass(slots=True)
class Statistics:
    """What a client has seen. `retries` counts requests sent again to another HSM."""

    requests: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A live connection to a checked HSM."""

    channel: Channel
    welcome: Welcome
    member: Member


class Node:
    """One HSM as a client sees it."""

    def __init__(self, hsm: str, dial: Dial, watch: Watch | None = None) -> None:
        self.hsm, self._dial, self._watch = hsm, dial, watch
        self.outstanding = 0
        self.failures = 0
        self.requests = self.errors = 0
        self.service_s = self.asked_at_s = 0.0
        self.well_at_s = 0.0
        self._dialing, self._noting = threading.Lock(), threading.Lock()
        self._link: Link | None = None

    @property
    def open_link(self) -> Link | None:
        """Return the connection, where there is one."""
        return self._link

    def link(self, cluster: str, anchor: bytes) -> Link:
        """Return the connection, made and checked when there is none.

        Raises:
            UnavailableError: it cannot be made; or it failed lately and somebody else is trying,
                for a hung HSM must hold up one caller and not all of them.
        """
        if (link := self._link) is not None:
            return link
        if not self._dialing.acquire(blocking=self.failures == 0):
            raise UnavailableError(f"{self.hsm} does not answer")
        try:
            if self._link is None:
                self._link = self._connect(cluster, anchor)
            return self._link
        finally:
            self._dialing.release()

    def _connect(self, cluster: str, anchor: bytes) -> Link:
        channel = self._dial()
        try:
            welcome = channel.call(Hello(), HELLO_TIMEOUT_S)
            if not isinstance(welcome, Welcome):
                raise TamperedError(f"{self.hsm} does not introduce itself")
            if welcome.removed:
                raise UnavailableError(f"{self.hsm} has left the cluster")
            member = check_hsm(welcome, cluster, anchor)
            if member.hsm != self.hsm:
                raise TamperedError(f"{member.hsm} answers in place of {self.hsm}")
        except BaseException:
            channel.close()
            raise
        if self._watch is not None:
            self._watch(channel)
        return Link(channel, welcome, member)

    def broken(self, link: Link | None, now_s: float) -> None:
        """Note a failure; the next request dials anew."""
        with self._noting:
            if link is not None and self._link is link:
                self._link = None
            self.failures += 1
            self.errors += 1
            wait = _PENALTY_S[min(self.failures, len(_PENALTY_S)) - 1]
            self.well_at_s = now_s + wait
        if link is not None:
            link.channel.close()

    def well(self, took_s: float) -> None:
        """Note a success, and how long it took for each request that was under way."""
        self.requests += 1
        held = self.service_s
        if not held:
            self.service_s = took_s
        elif took_s < held:
            self.service_s += (took_s - held) * _FASTER
        else:  # one slow answer is an accident, many are a slow HSM
            self.service_s += (min(took_s, _ACCIDENT * held) - held) * _SLOWER
        if self.failures:
            self.failures, self.well_at_s = 0, 0.0

    def expected_s(self, now_s: float) -> float:
        """Return when a request sent now may be answered; 0 for one that is to be tried again."""
        if now_s - self.asked_at_s >= _PROBE_S and not self.outstanding:
            return 0.0
        return (self.outstanding + 1) * max(self.service_s, _LEAST_S)

    def close(self) -> None:
        """End the connection."""
        with self._noting:
            link, self._link = self._link, None
        if link is not None:
            link.channel.close()


class Balancer:
    """Sends requests to a cluster's HSMs. Thread-safe."""

    def __init__(
        self,
        cluster: str,
        anchor: bytes,
        source: Source,
        clock: Clock,
        patience_s: float = PATIENCE_S,
        watch: Watch | None = None,
    ) -> None:
        """Take the cluster; with `watch` requests can be begun, and its owner pumps."""
        self.cluster, self._anchor, self._clock, self._watch = cluster, anchor, clock, watch
        self._patience_s = patience_s
        self.statistics = Statistics()
        self._source = source
        self._nodes: dict[str, Node] = {}
        self._guard = threading.Lock()
        self._looked_at_s = 0.0
        self._refresh(clock.monotonic_s())

    @property
    def nodes(self) -> Sequence[Node]:
        """Return the HSMs as this client sees them."""
        return list(self._nodes.values())

    @property
    def hsms(self) -> Sequence[str]:
        """Return the ids of the HSMs."""
        return list(self._nodes)

    def _refresh(self, now_s: float) -> None:
        """Take the present list of HSMs: links that stay are kept."""
        self._looked_at_s = now_s
        dials = list(self._source().items())
        _DICE.shuffle(dials)  # many clients begin with each HSM
        with self._guard:
            gone = [self._nodes.pop(hsm) for hsm in set(self._nodes) - {hsm for hsm, _ in dials}]
            for hsm, dial in dials:
                self._nodes.setdefault(hsm, Node(hsm, dial, self._watch))
        for node in gone:
            node.close()

    def link_one(self) -> None:
        """Link the HSM that the next request would go to; a failure is noted, and no more."""
        node = self._pick(())
        if node is None:
            return
        try:
            node.link(self.cluster, self._anchor)
        except (UnavailableError, TamperedError):
            node.broken(None, self._clock.monotonic_s())

    def call_one(
        self, hsm: str, build: Callable[[Link], Request], timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Reply:
        """Send a request to one HSM, once."""
        node = self._nodes.get(hsm)
        if node is None:
            raise NotFoundError("HSM", hsm, "see `cloister hsm list`")
        return self._send(node, build, timeout_s)

    def call(self, build: Callable[[Link], Request], timeout_s: float = REQUEST_TIMEOUT_S) -> Reply:
        """Send a request that is safe to repeat to the best HSM, and on failure to the next.

        Raises:
            RemoteError: an HSM refused, and another would not do better.
            UnavailableError: no HSM answered within the client's patience.
        """
        deadline = self._clock.monotonic_s() + self._patience_s
        tried: set[str] = set()
        refused: set[str] = set()
        last: OrchestratorError = UnavailableError(f"cluster {self.cluster} has no HSMs")
        self.statistics.requests += 1
        while True:
            now = self._clock.monotonic_s()
            if now - self._looked_at_s >= LOOK_AGAIN_S:
                self._refresh(now)
            node = self._pick(tried)
            if node is None:
                if now >= deadline or not self._nodes:
                    raise last
                self._clock.sleep(0.05)
                tried.clear()
                continue
            try:
                return self._send(node, build, timeout_s)
            except RemoteError as exc:
                refused.add(node.hsm)
                everybody = refused >= set(self._nodes)  # waiting is for HSMs that do not answer
                if not exc.retryable or everybody:
                    raise
                last = exc
                if exc.code == "behind" and len(tried) + 1 >= len(self._nodes):
                    raise
            except UnavailableError as exc:
                last = exc
            tried.add(node.hsm)
            self.statistics.retries += 1

    def begin(self, request: Request, on_reply: OnReply, hsm: str | None = None) -> Channel | None:
        """Begin a request at the best HSM, or at this one, without waiting for anything.

        Returns:
            The channel, which its owner flushes and pumps; None where it is for `call` to do: a
            link is to be made, say, or no HSM is well.
        """
        now = self._clock.monotonic_s()
        if now - self._looked_at_s >= LOOK_AGAIN_S:
            return None
        node = self._pick(()) if hsm is None else self._nodes.get(hsm)
        link = node.open_link if node is not None else None
        if node is None or link is None or node.well_at_s > now:
            return None
        with self._guard:
            node.outstanding += 1
            beside, node.asked_at_s = node.outstanding, now

        def done(reply: Reply | None) -> None:
            with self._guard:
                node.outstanding -= 1
            if reply is None:
                if node.open_link is link:  # once for all that were under way
                    node.broken(link, self._clock.monotonic_s())
            elif not isinstance(reply, Refusal):
                node.well((self._clock.monotonic_s() - now) / beside)
            on_reply(reply)

        if not link.channel.begin(request, done):
            with self._guard:
                node.outstanding -= 1
            return None
        self.statistics.requests += 1
        return link.channel

    def give_up_late(self) -> None:
        """Break the links whose HSMs owe a reply to what was begun for too long."""
        now = self._clock.monotonic_s()
        for node in self.nodes:
            link = node.open_link
            if link is not None and link.channel.oldest_begun_s() <= now - REQUEST_TIMEOUT_S:
                link.channel.close()

    def least_busy(self) -> str:
        """Return the HSM that the next request would go to."""
        node = self._pick(())
        if node is None:
            raise UnavailableError(f"cluster {self.cluster} has no HSMs")
        return node.hsm

    def _send(self, node: Node, build: Callable[[Link], Request], timeout_s: float) -> Reply:
        begun = self._clock.monotonic_s()
        with self._guard:
            node.outstanding += 1
            beside, node.asked_at_s = node.outstanding, begun
        link: Link | None = None
        try:
            link = node.link(self.cluster, self._anchor)
            request = build(link)
            begun = self._clock.monotonic_s()  # a link is made once: the HSM is no slower for it
            reply = link.channel.call(request, timeout_s)
        except (UnavailableError, TamperedError):
            node.broken(link, self._clock.monotonic_s())
            raise
        finally:
            with self._guard:
                node.outstanding -= 1
        if isinstance(request, Login):
            node.well(node.service_s)  # a password takes its time by intention
        else:
            node.well((self._clock.monotonic_s() - begun) / beside)
        return reply

    def _pick(self, tried: Collection[str]) -> Node | None:
        """Return the least busy HSM that is well; one that failed lately only as a last resort."""
        now = self._clock.monotonic_s()
        best, least_s = None, float("inf")
        with self._guard:
            for node in self._nodes.values():
                if node.hsm in tried:
                    continue
                expected_s = node.expected_s(now)
                if node.well_at_s > now:
                    expected_s += _UNWELL_S + node.outstanding
                if expected_s < least_s:
                    best, least_s = node, expected_s
        return best

    def close(self) -> None:
        """End all connections."""
        for node in self._nodes.values():
            node.close()
