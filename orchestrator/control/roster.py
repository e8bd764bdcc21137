"""The HSMs of a cluster as the controller reaches them: one connection each, asked side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator.client.balancer import Dial, Link
from orchestrator.client.channel import Channel
from orchestrator.client.connection import expect
from orchestrator.client.trust import check_hsm
from orchestrator.model.errors import (
    NoAnswerError,
    NotFoundError,
    OrchestratorError,
    RemoteError,
    UnavailableError,
)
from orchestrator.wire import messages as m

HELLO_TIMEOUT_S: Final = 3.0
CHANGE_TIMEOUT_S: Final = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Heard:
    """What asking all HSMs brought: answers, and why the others gave none."""

    welcomes: Mapping[str, m.Welcome]
    silent: Mapping[str, OrchestratorError]


class Roster:
    """Connections to HSMs, checked against the anchor only where a secret is sent."""

    def __init__(self, cluster: str, source: Callable[[], Mapping[str, Dial]]) -> None:
        self.cluster, self._source = cluster, source
        self._channels: dict[str, tuple[Channel, m.Welcome]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=28, thread_name_prefix="roster")

    def hsms(self) -> list[str]:
        """Return the ids of the HSMs that the control plane knows."""
        return list(self._source())

    def hear(self, hsms: Iterable[str] | None = None) -> Heard:
        """Greet all HSMs at once."""
        names = list(hsms) if hsms is not None else self.hsms()
        results = list(self._pool.map(self._try_hello, names))
        found = dict(zip(names, results, strict=True))
        return Heard(
            {hsm: r for hsm, r in found.items() if isinstance(r, m.Welcome)},
            {hsm: r for hsm, r in found.items() if isinstance(r, OrchestratorError)},
        )

    def _try_hello(self, hsm: str) -> m.Welcome | OrchestratorError:
        try:
            return self._hello(hsm)
        except OrchestratorError as exc:
            return exc

    def _hello(self, hsm: str) -> m.Welcome:
        try:
            reply = self.call(hsm, m.Hello(), HELLO_TIMEOUT_S)
        except NoAnswerError:
            raise
        except UnavailableError:  # it may have been started anew since it was last asked
            reply = self.call(hsm, m.Hello(), HELLO_TIMEOUT_S)
        return expect(reply, m.Welcome)

    def each(
        self, hsms: Iterable[str], ask: Callable[[str], T]
    ) -> dict[str, T | OrchestratorError]:
        """Do something with several HSMs side by side; errors are values."""
        names = list(hsms)

        def attempt(hsm: str) -> T | OrchestratorError:
            try:
                return ask(hsm)
            except OrchestratorError as exc:
                return exc

        return dict(zip(names, self._pool.map(attempt, names), strict=True))

    def call(self, hsm: str, request: m.Request, timeout_s: float = CHANGE_TIMEOUT_S) -> m.Reply:
        """Send a request to one HSM.

        Raises:
            RemoteError: the HSM refused.
            UnavailableError: it does not answer; the next call connects anew.
        """
        channel, _ = self._connect(hsm)
        try:
            return channel.call(request, timeout_s)
        except RemoteError:
            raise
        except OrchestratorError:
            self._forget(hsm, channel)
            raise

    def link(self, hsm: str, anchor: bytes) -> Link:
        """Return a connection that may be given a secret: its chain to the anchor was checked."""
        fresh = self._hello(hsm)
        channel, welcome = self._connect(hsm)
        return Link(channel, welcome, check_hsm(fresh, self.cluster, anchor))

    def _connect(self, hsm: str) -> tuple[Channel, m.Welcome]:
        with self._lock:
            known = self._channels.get(hsm)
        if known is not None:
            return known
        dial = self._source().get(hsm)
        if dial is None:
            raise NotFoundError("HSM", hsm, "see `cloister hsm list`")
        channel = dial()
        try:
            welcome = expect(channel.call(m.Hello(), HELLO_TIMEOUT_S), m.Welcome)
            if welcome.hsm != hsm:
                raise UnavailableError(f"{welcome.hsm} answers in place of {hsm}")
        except BaseException:
            channel.close()
            raise
        with self._lock:
            first = self._channels.setdefault(hsm, (channel, welcome))
        if first[0] is not channel:
            channel.close()
        return first

    def _forget(self, hsm: str, channel: Channel) -> None:
        with self._lock:
            if (known := self._channels.get(hsm)) is not None and known[0] is channel:
                del self._channels[hsm]
        channel.close()

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            channel.close()
        self._pool.shutdown(wait=False)

    # --- what is larger than a frame ---

    def upload(self, hsm: str, name: str, blob: bytes) -> None:
        """Give an HSM a blob."""
        for offset in range(0, len(blob), m.BLOB_PIECE_BYTES):
            piece = blob[offset : offset + m.BLOB_PIECE_BYTES]
            expect(self.call(hsm, m.Upload(name, offset, len(blob), piece)), m.BlobReady)

    def download(self, hsm: str, name: str) -> bytes:
        """Fetch a blob from an HSM."""
        pieces: list[bytes] = []
        offset = 0
        while piece := expect(self.call(hsm, m.Download(name, offset)), m.Data).data:
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)
