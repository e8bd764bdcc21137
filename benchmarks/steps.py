"""Where the processor's time of one signature goes in the agent, without sockets and threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pkcs11 import Mechanism

from benchmarks.direct import DIGEST
from benchmarks.report import Case, Samples, Scale
from benchmarks.site import Site
from benchmarks.timing import times_ms
from orchestrator.agent.core import Core
from orchestrator.agent.hsm import Hsm
from orchestrator.agent.main import open_core
from orchestrator.lab import lab
from orchestrator.model.entries import encode
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme
from orchestrator.tokens._pkcs11_library import key_on
from orchestrator.tokens.store import Handle
from orchestrator.wire import messages as m
from orchestrator.wire.frames import pack_frame

_CALLS_A_SECOND: Final = 5_000
_MECHANISM: Final = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)


def run(home: Path, scale: Scale, on_turn: Callable[[str], None]) -> Iterator[Case]:
    """Measure; the HSM's directory is opened in this process, with its agent stopped."""
    samples = Samples()
    with Site(home, 1) as site:
        ref = site.session.key("p256").ref
        request = m.Sign(site.session.ticket(), 0, ref, _MECHANISM, DIGEST)
        agent = lab.kill(home, site.hsms[0])
        core = open_core(site.plane.infrastructure.hsm_directory(agent.host, agent.hsm_id))
        sessions = core.store._sessions  # type: ignore[attr-defined]  # noqa: SLF001
        with core.loaded.use(core.state.key(ref)) as handle, sessions.borrow() as session:
            steps = _steps(core, request, handle, session)
            for number in range(scale.rounds):
                on_turn(f"round {number + 1} of {scale.rounds}")
                for name, step in steps.items():
                    calls = int(_CALLS_A_SECOND * scale.seconds)
                    samples.add(name, times_ms(step, calls, time.thread_time) * 1e3)
        core.vault.close()
        core.store.close()
    for name in steps:
        yield Case("steps", name, "µs", samples.of(name))


def _steps(
    core: Core,
    request: m.Sign,
    handle: Handle,
    session: Any,  # noqa: ANN401  # pkcs11.Session
) -> dict[str, Callable[[], object]]:
    """Return the steps by name; those from the handler on hold the ones below them."""
    hsm, encoded, reply = Hsm(core), encode(request), m.Data(bytes(64))
    peer = hsm.connect(os.getuid())
    judge, authorize = hsm._caller, hsm._authorize  # noqa: SLF001  # no other way to their time
    caller = judge(request, peer)
    key = core.state.key(request.ref)
    token_key = key_on(session, handle)

    def load() -> None:
        with core.loaded.use(key):
            pass

    return {
        "all of it": lambda: pack_frame(1, encode(hsm.answer(m.decode_request(encoded), peer))),
        "decode the request": lambda: m.decode_request(encoded),
        "ticket, log-out, password version": lambda: judge(request, peer),
        "permission": lambda: authorize(request, caller),
        "handler: key, owner, usage, mode, and below": lambda: hsm.using.sign(request, caller),
        "hold the loaded key": load,
        "token store: usage, mechanism, and below": lambda: core.store.sign(
            handle, _MECHANISM, DIGEST
        ),
        "python-pkcs11 and SoftHSM": lambda: token_key.sign(DIGEST, mechanism=Mechanism.ECDSA),
        "encode the reply": lambda: pack_frame(1, encode(reply)),
    }
