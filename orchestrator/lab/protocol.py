"""What the supervisor is asked: one request and one answer a connection, same user only."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from orchestrator.model.errors import MalformedError, OrchestratorError, UnavailableError
from orchestrator.wire.frames import FrameReader, pack_frame
from orchestrator.wire.messages import Refusal, raise_refusal
from orchestrator.wire.streams import dial, peer_uid

ANSWER_TIMEOUT_S: Final = 30.0
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`action` is create, destroy, kill, start, status or stop."""

    action: str
    host: str = ""
    hsm: str = ""
    profile: str = ""


class AgentStatus(msgspec.Struct, frozen=True):
    """One agent. `state` is running, down (held down), or restarting."""

    hsm_id: str
    host: str
    availability_zone: str
    state: str
    pid: int | None
    uptime_s: float


class Answer(msgspec.Struct, frozen=True):
    """Done, or why not."""

    refusal: Refusal | None = None
    pid: int = 0
    agents: tuple[AgentStatus, ...] = ()


class SupervisorHangsError(OrchestratorError):
    """The supervisor lives and does not answer: what it runs must not be taken for gone."""

    code, exit_status, retryable = "supervisor-hangs", 5, True


def ask(path: Path, order: Order) -> Answer:
    """Send an order to the supervisor and return its answer.

    Raises:
        UnavailableError: it does not run.
        RemoteError: it refused.
        MalformedError: its answer is none.
    """
    try:
        with dial(path, ANSWER_TIMEOUT_S) as sock:
            sock.sendall(pack_frame(1, msgspec.msgpack.encode(order)))
            frame = FrameReader(sock).read()
    except TimeoutError as exc:
        raise SupervisorHangsError("the lab's supervisor does not answer") from exc
    except OSError as exc:
        raise UnavailableError("the lab is down; `cloister lab up`") from exc
    if frame is None:
        raise UnavailableError("the lab's supervisor ended; `cloister lab up`")
    try:
        answer = msgspec.msgpack.decode(frame[1], type=Answer)
    except _UNREADABLE as exc:
        raise MalformedError(
            "the supervisor's answer is not one that this software knows; restart the lab: "
            "`cloister lab down`, `cloister lab up`"
        ) from exc
    if answer.refusal is not None:
        raise_refusal(answer.refusal)
    return answer


def receive(sock: socket.socket) -> Order | None:
    """Read one order; None from another user, or for bytes that are none."""
    sock.settimeout(5)
    if peer_uid(sock) != os.getuid():
        return None
    try:
        frame = FrameReader(sock).read()
        return msgspec.msgpack.decode(frame[1], type=Order) if frame else None
    except (OSError, MalformedError, *_UNREADABLE):
        return None
