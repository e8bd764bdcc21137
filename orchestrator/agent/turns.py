"""Leader and followers: which thread reads, and which one serves a request.

One thread waits for all streams at once. What will be done sooner than another thread could be
woken it answers in between, and reads on; before anything else it lets another thread lead, and
serves the request itself, so that overlapping requests are served side by side. Where uses of
keys keep all processors busy nobody is woken: who is done first leads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from orchestrator.agent.hsm import Hsm
from orchestrator.agent.stream import Stream
from orchestrator.model.errors import MalformedError
from orchestrator.wire import messages as m
from orchestrator.wire.messages import Reply, decode_request, refusal_of

THREADS_MAX: Final = 512
LINGER_S: Final = 1.0
SHORT_S: Final = 250e-6
"""A use of a key that takes less is not worth a hand-over to another thread."""
_KEYS_NOTED_MAX: Final = 4096
_PROCESSORS: Final = len(os.sched_getaffinity(0))
_Use = m.Sign | m.Mac | m.VerifyMac | m.Encrypt | m.Decrypt
_USES: Final = (m.Sign, m.Mac, m.VerifyMac, m.Encrypt, m.Decrypt)
_log = logging.getLogger("cloister.agent")
Job = Callable[[], None]


class Turns:
    """Serves the streams of one HSM.

    Invariants: only the leader reads, and touches `_ready`; a stream ends when it is read to its
    end, or is broken, and no job of it is under way.
    """

    def __init__(self, hsm: Hsm) -> None:
        self._hsm = hsm
        self._poller = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wake, select.EPOLLIN)
        self._streams: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()  # have been received from; the first is worked at
        self._resumed: deque[Stream] = deque()  # were held, and may be read again
        self._count = threading.Lock()
        self._threads = 0
        self._leader = 0  # the thread whose turn to read it is, until it passes on
        self._waiting: list[tuple[threading.Lock, int]] = []  # for the turn; the last is next
        self._short: set[int] = set()  # keys whose latest use was short
        self._busy: set[int] = set()  # keys whose latest use was longer, and spent computing
        self._computing = 0  # threads in a use that is not known to be short
        self._is_finishing = False

    def add(self, stream: Stream) -> None:
        """Begin to serve a stream; it ends at once when there is no thread to be had."""
        with self._count:
            is_first = self._threads == 0
        if is_first:
            try:
                self._hire()
            except RuntimeError as exc:
                _log.warning("no thread for a connection: %s", exc)
                stream.end()
                return
        self._streams[stream.fileno()] = stream
        self._poller.register(stream.fileno(), select.EPOLLIN)

    def finish(self) -> None:
        """Serve the streams that are here to their ends; no more are added."""
        self._is_finishing = True
        with contextlib.suppress(OSError):  # all threads have left
            os.eventfd_write(self._wake, 1)

    def _hire(self) -> None:
        with self._count:
            self._threads += 1
        try:
            threading.Thread(target=self._serve, daemon=True, name="rpc").start()
        except RuntimeError:
            with self._count:
                self._threads -= 1
            raise

    def _serve(self) -> None:
        while True:
            try:
                if (job := self._next()) is None:
                    break
                job()
            except Exception:  # noqa: BLE001  # a bug must not leave the HSM without a leader
                _log.exception("an unexpected error")
                self._pass_on()
        with self._count:
            self._threads -= 1
            is_last = self._threads == 0
        if is_last and self._is_finishing:
            self._poller.close()
            os.close(self._wake)

    # --- whose turn it is ---

    def _may_lead(self) -> bool:
        """Wait for the turn to lead; tell whether it came. Who is not needed leaves after a while.

        Threads wait on a stack: the one that worked last is warm, and those below it can go.
        """
        own = threading.get_ident()
        if self._leader == own:  # it was not passed on
            return True
        turn = threading.Lock()
        with self._count:
            if not self._leader:
                self._leader = own
                return True
            turn.acquire()
            self._waiting.append((turn, own))
            stays = len(self._waiting) == 1
        if turn.acquire(timeout=-1 if stays else LINGER_S):
            return True
        with self._count:
            if self._leader == own:  # it came just now
                return True
            self._waiting.remove((turn, own))
            return False

    def _pass_on(self) -> None:
        """Let another thread lead, if it is this one's turn; one is hired when none waits."""
        with self._count:
            if self._leader != threading.get_ident():
                return
            self._leader = 0
            if self._waiting:
                turn, self._leader = self._waiting.pop()
                turn.release()
                return
            hire = self._threads < THREADS_MAX and not self._is_finishing
        if hire:
            try:
                self._hire()
            except RuntimeError as exc:  # those that are here go on
                _log.warning("no thread for a request: %s", exc)

    def _hand_over(self, ref: int) -> None:
        """Let another thread lead, woken only if a processor is free for what it would do.

        A thread that is woken to a busy processor waits for as long as the use takes, and the
        requests behind it with it: the first that is done finds the turn free, and is running.
        """
        if ref not in self._busy or self._computing < _PROCESSORS:
            self._pass_on()
            return
        with self._count:
            if self._leader == threading.get_ident():
                self._leader = 0

    # --- reading ---

    def _next(self) -> Job | None:
        """Return what is to be done; None when enough threads wait.

        The turn stays with this thread until the job, or the end of it, passes it on.
        """
        if not self._may_lead():
            return None
        while True:
            while not self._ready:
                if self._is_finishing and not self._streams:
                    self._pass_on()
                    return None
                self._poll()
            if (job := self._advance(self._ready[0])) is not None:
                return job
            self._ready.popleft()

    def _poll(self) -> None:
        for number, _ in self._poller.poll():
            if number == self._wake:
                os.eventfd_read(self._wake)
                self._resume()
                continue
            stream = self._streams[number]
            if not stream.receive():
                del self._streams[number]
                self._poller.unregister(number)
                stream.is_at_end = True
            self._ready.append(stream)

    def _resume(self) -> None:
        while self._resumed:
            stream = self._resumed.popleft()
            stream.is_held = False
            self._watch(stream, select.EPOLLIN)
            self._ready.append(stream)

    def _watch(self, stream: Stream, events: int) -> None:
        if not stream.is_at_end:
            self._poller.modify(stream.fileno(), events)

    def _advance(self, stream: Stream) -> Job | None:
        """Answer what is short of what has come; return the first job that is not."""
        if stream.is_held:
            return None
        while stream.is_open and (frame := stream.frame()) is not None:
            if (job := self._begin(stream, *frame)) is not None:
                stream.try_flush()
                return self._held_job(stream, job)
        if not stream.try_flush():
            return self._held_job(stream, partial(self._flush, stream), hold=True)
        if stream.is_at_end and stream.is_read_out():
            return partial(self._end, stream)
        return None

    def _held_job(self, stream: Stream, job: Job, *, hold: bool = False) -> Job:
        """Count a job of a stream, which is not read meanwhile if it has too many."""
        if stream.begin_job(hold=hold):
            self._watch(stream, 0)
        return job

    # --- serving ---

    def _begin(self, stream: Stream, number: int, body: bytes) -> Job | None:
        """Answer a request that is short, or malformed; return the job that another one is."""
        try:
            request = decode_request(body)
            if not isinstance(request, _USES) or request.ref not in self._short:
                return partial(self._do, stream, number, request)
            begun = time.perf_counter()
            stream.leave(number, self._hsm.answer(request, stream.peer))
            if time.perf_counter() - begun >= SHORT_S:
                self._short.discard(request.ref)
        except MalformedError as exc:
            stream.leave(number, refusal_of(exc))
        except OverflowError:
            stream.leave(number, _out_of_range())
        except Exception:  # noqa: BLE001  # a bug: this stream ends, not the HSM
            _log.exception("connection closed on an unexpected error")
            stream.close()
        return None

    def _do(self, stream: Stream, number: int, request: m.Request) -> None:
        try:
            stream.reply(number, self._answer(stream, request))
        except Exception:  # noqa: BLE001  # one connection, not the HSM
            # A bug, or an audit log that cannot be written: this connection ends, unanswered.
            _log.exception("connection closed on an unexpected error")
            stream.close()
        finally:
            self._end_job(stream)

    def _answer(self, stream: Stream, request: m.Request) -> Reply:
        try:
            if isinstance(request, _USES):
                return self._use(stream, request)
            # Passed on just before the work: up to there the interpreter serves one thread
            # anyway, and a thread woken earlier would only contend for it.
            return self._hsm.answer(request, stream.peer, self._pass_on)
        except OverflowError:
            return _out_of_range()
        finally:
            self._pass_on()

    def _use(self, stream: Stream, request: _Use) -> Reply:
        """Use a key, and note what that was like."""
        ref = request.ref
        with self._count:
            self._computing += 1
        begun, computed = time.perf_counter(), time.thread_time()
        try:
            reply = self._hsm.answer(request, stream.peer, lambda: self._hand_over(ref))
        finally:
            with self._count:
                self._computing -= 1
        if not isinstance(reply, m.Refusal):
            is_short = time.perf_counter() - begun < SHORT_S
            _note(self._short, ref, holds=is_short)
            _note(self._busy, ref, holds=not is_short and time.thread_time() - computed >= SHORT_S)
        return reply

    def _flush(self, stream: Stream) -> None:
        """Wait for a client that does not read."""
        self._pass_on()
        stream.flush()
        self._end_job(stream)

    def _end_job(self, stream: Stream) -> None:
        if stream.end_job():
            self._end(stream)
        elif stream.is_held:
            self._resumed.append(stream)
            os.eventfd_write(self._wake, 1)

    def _end(self, stream: Stream) -> None:
        self._pass_on()
        try:
            stream.end()
        except Exception:  # noqa: BLE001  # a bug, or a token that is gone
            _log.exception("a connection's end met an unexpected error")


def _out_of_range() -> Reply:
    # Numbers of msgpack reach 2^64, those of SQLite 2^63.
    return refusal_of(MalformedError("a number in the request is out of range"))


def _note(refs: set[int], ref: int, *, holds: bool) -> None:
    if not holds:
        refs.discard(ref)
    elif len(refs) < _KEYS_NOTED_MAX:
        refs.add(ref)
