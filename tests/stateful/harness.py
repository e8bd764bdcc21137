"""A cluster in one process: shipped HSMs, ledger and controller; fake tokens, stream, clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from orchestrator.agent.core import Core, HsmConfig
from orchestrator.agent.hsm import Hsm
from orchestrator.agent.vault import Vault
from orchestrator.client.channel import OnReply
from orchestrator.client.trust import seal_password
from orchestrator.control.controller import Controller, Outcome
from orchestrator.control.database import open_database
from orchestrator.control.ledger import Ledger
from orchestrator.control.profiles import load_profiles
from orchestrator.control.roster import Roster
from orchestrator.lab.lab import sign_csr
from orchestrator.model.entries import encode
from orchestrator.model.errors import RemoteError, UnavailableError
from orchestrator.model.roles import Role
from orchestrator.model.steps import Step
from orchestrator.wire import messages as m
from tests.fakes.token_store import FakeTokenStore

PROFILE = load_profiles()["hsm2m.medium"]
CLUSTER = "cluster-statefultst"
PASSWORD = b"password-1"


class Crash(BaseException):
    """The process that reached a step is gone."""


class FakeClock:
    """Moves when it is told to, and a little at every look."""

    def __init__(self) -> None:
        self.ms, self.jumped_ms = 1_800_000_000_000, 0

    def now_ms(self) -> int:
        self.ms += 1
        return self.ms + self.jumped_ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    def sleep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


class OneByOne(ThreadPoolExecutor):
    """A pool whose work is done in order, when it is asked for."""

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        return map(fn, *iterables)


class Machine:
    """A host with one HSM: its files and token outlive the HSM's process."""

    def __init__(self, cluster: LocalCluster, number: int) -> None:
        self.cluster, self.id = cluster, f"hsm-{'abcd'[number] * 11}"
        self.host_key = Ed25519PrivateKey.generate()
        self.store = FakeTokenStore()
        self.path = cluster.directory / f"{self.id}.db"
        self.name = f"host-{number}"
        self.hsm: Hsm | None = None
        self.start()

    def start(self) -> None:
        if self.hsm is None:
            self.store = self.store.crashed()
            vault = Vault(self.path, self.store)
            config = HsmConfig(self.id, self.name, "zone")
            core = self.cluster.core_type(
                config, PROFILE, self.store, vault, self.cluster.clock, self.host_key, self._step
            )
            self.hsm = Hsm(core)

    def stop(self) -> None:
        if self.hsm is not None:
            self.hsm.core.vault.close()
            self.hsm = None

    def _step(self, step: Step) -> None:
        if self.cluster.fault == (self.id, step):
            self.cluster.fault = None
            raise Crash


class FakeStream:
    """A connection that encodes and decodes as the real one, and loses or repeats on demand."""

    def __init__(self, machine: Machine) -> None:
        if machine.hsm is None:
            raise UnavailableError(f"{machine.id} is down")
        self._machine, self._hsm = machine, machine.hsm
        self._peer = machine.hsm.connect(os.getuid())

    def call(self, request: m.Request, timeout_s: float) -> m.Reply:
        del timeout_s
        cluster, machine = self._machine.cluster, self._machine
        if machine.hsm is not self._hsm:
            raise UnavailableError("the connection broke")
        waits = cluster.mishaps[-1:] == ["repeat"] and not isinstance(request, m.Apply)
        mishap = cluster.mishaps.pop() if cluster.mishaps and not waits else ""
        if mishap == "lose-request":
            raise UnavailableError("the request was lost")
        try:
            reply = self._hsm.answer(m.decode_request(encode(request)), self._peer)
            if mishap == "repeat":  # it has waited for a push
                reply = self._hsm.answer(m.decode_request(encode(request)), self._peer)
        except Crash:
            machine.stop()
            raise UnavailableError("the HSM died") from None
        if mishap == "lose-reply":
            raise UnavailableError("the reply was lost")
        decoded = m.decode_reply(encode(reply))
        if isinstance(decoded, m.Refusal):
            m.raise_refusal(decoded)
        return decoded

    def begin(self, request: m.Request, on_reply: OnReply) -> bool:
        """Answer at once: there is no stream that could be slow."""
        try:
            on_reply(self.call(request, 0.0))
        except RemoteError as exc:
            on_reply(m.Refusal(exc.code, str(exc), exc.exit_status, exc.retryable))
        except UnavailableError:
            on_reply(None)
        return True

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return -1

    def adopt(self, reader: int) -> None: ...

    def pump(self, *, wait: bool = False) -> None: ...

    def oldest_begun_s(self) -> float:
        return inf

    def close(self) -> None:
        self._hsm.disconnect(self._peer)


class LocalCluster:
    """An active cluster of three HSMs with user `cu`."""

    def __init__(
        self,
        directory: Path,
        core_type: type[Core] = Core,
        controller_type: type[Controller] = Controller,
        name: str = CLUSTER,
        clock: FakeClock | None = None,
    ) -> None:
        self.name = name
        self.directory, self.core_type, self.controller_type = directory, core_type, controller_type
        self.clock = clock or FakeClock()
        self.fault: tuple[str, Step] | None = None
        self.mishaps: list[str] = []
        self.engine = open_database(directory / "control.db")
        self.ledger = Ledger(self.engine, name)
        self.machines = [Machine(self, number) for number in range(3)]
        self.members = self.machines[:1]
        self.controller = self._new_controller()
        self._bootstrap()

    def _new_controller(self) -> Controller:
        def source() -> dict[str, Callable[[], FakeStream]]:
            return {x.id: (lambda x=x: FakeStream(x)) for x in self.members}  # type: ignore[misc]

        roster = Roster(self.name, source)
        roster._pool = OneByOne()  # which HSM meets a planned mishap shall not be chance
        return self.controller_type(self.name, self.ledger, roster, self.clock, self._step)

    def _step(self, step: Step) -> None:
        if self.fault == ("controller", step):
            self.fault = None
            raise Crash

    def restart_controller(self) -> None:
        self.controller.roster.close()
        self.controller = self._new_controller()

    def _bootstrap(self) -> None:
        first, roster = self.machines[0], self.controller.roster
        made = roster.call(first.id, m.Prepare(b"", "create", m.CreateCluster(CLUSTER, "FIPS"), 0))
        assert isinstance(made, m.Prepared)
        self.ledger.commit(made.entry, is_base=True)
        self.controller.offer(first.id, [made.entry], 0)
        assert first.hsm is not None
        csr = x509.load_der_x509_csr(first.hsm.core.state.meta.csr).public_bytes(Encoding.PEM)
        real_now = self.clock.ms
        certificate, anchor = (path.read_bytes() for path in sign_csr(self.directory, csr))
        self.anchor = anchor
        self.clock.ms = max(real_now, _valid_from(certificate) + 1000)
        self.controller.change(lambda _: m.InitializeCluster(certificate, anchor))
        self.controller.change(
            lambda hsm: m.ActivateCluster(self.seal(hsm, "new-password", Role.ADMIN, "admin"))
        )
        admin = self.login(Role.ADMIN, "admin")
        self.controller.change(
            lambda hsm: m.CreateUser(
                "cu", Role.CRYPTO_USER, self.seal(hsm, "new-password", Role.CRYPTO_USER, "cu")
            ),
            ticket=admin,
        )
        for machine in self.machines[1:]:
            key = machine.host_key.public_key().public_bytes_raw()
            name = machine.name
            self.controller.change(lambda _, n=name, k=key: m.AdmitHost(n, k), ticket=admin)  # type: ignore[misc]
            self._join(machine)
        self.ticket = self.login(Role.CRYPTO_USER, "cu")

    def _join(self, machine: Machine) -> None:
        roster, donor = self.controller.roster, self.machines[0].id
        self.members = self.machines[: self.machines.index(machine) + 1]
        challenge = roster.call(donor, m.JoinChallenge())
        assert isinstance(challenge, m.Data)
        start = roster.call(machine.id, m.JoinStart(CLUSTER, challenge.data))
        assert isinstance(start, m.SignedJoin)
        granted = roster.call(donor, m.JoinGrant(start.join))
        assert isinstance(granted, m.Granted)
        roster.upload(machine.id, granted.blob, roster.download(donor, granted.blob))
        accepted = roster.call(machine.id, m.JoinAccept(granted.grant, granted.blob))
        assert isinstance(accepted, m.Accepted)
        change = m.JoinHsm(start.join, accepted.receipt)
        self.controller.change(lambda _: change, request=f"join-{machine.id}", author=donor)

    def seal(self, hsm: str, purpose: str, role: Role, name: str) -> bytes:
        link = self.controller.roster.link(hsm, self.anchor)
        return seal_password(purpose, link.welcome, link.member, role, name, PASSWORD)

    def login(self, role: Role, name: str) -> bytes:
        first = self.machines[0].id
        sealed = self.seal(first, "login", role, name)
        ticket = self.controller.roster.call(first, m.Login(name, role, sealed))
        assert isinstance(ticket, m.Ticket)
        return ticket.ticket

    def change(self, request: str, change: m.ChangeRequest) -> Outcome:
        return self.controller.change(lambda _: change, ticket=self.ticket, request=request)

    def close(self) -> None:
        self.controller.roster.close()
        for machine in self.machines:
            machine.stop()
        self.engine.dispose()


def _valid_from(certificate: bytes) -> int:
    parsed = x509.load_pem_x509_certificate(certificate)
    return int(parsed.not_valid_before_utc.timestamp() * 1000)
