"""A logged-in user at a cluster: keys to use, wherever an HSM is up.

Invariants: every request carries the ticket and the highest place in the ledger that this client
has heard of; an expired ticket is renewed without the caller's help; requests that are safe to
repeat are.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from orchestrator.client.balancer import Balancer, Link, Statistics
from orchestrator.client.channel import Channel, OnReply
from orchestrator.client.connection import expect
from orchestrator.client.session_keys import SessionKeys
from orchestrator.client.trust import seal_password
from orchestrator.client.verify import encrypt_oaep, encrypt_pkcs1, verify_signature
from orchestrator.model.clock import Clock
from orchestrator.model.entries import Credential
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    RefusedError,
    RemoteError,
    TamperedError,
    UnavailableError,
    UsageError,
)
from orchestrator.model.factor_decisions import MFA_LOGIN
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    CipherMechanism,
    CipherScheme,
    HashFunction,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import Key
from orchestrator.model.objects import ObjectFilter
from orchestrator.model.quorum import ApprovalData, possession_words
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.wire import messages as m

RENEW_BEFORE_MS: Final = 60_000
T = TypeVar("T")


class Session:
    """A login. Thread-safe; use as a context manager, or `close` it."""

    def __init__(self, balancer: Balancer, clock: Clock, role: Role, name: str) -> None:
        self.balancer, self.role, self.name = balancer, role, name
        self._clock = clock
        self._renewing = threading.Lock()
        self._ticket: m.Ticket | None = None
        self._seen = 0
        self.session_keys = SessionKeys(balancer, name, self.ticket, self._call)

    def login(self, password: bytes) -> Self:
        """Log in at any HSM; the ticket is good at every one."""

        def build(link: Link) -> m.Request:
            sealed = seal_password(
                "login", link.welcome, link.member, self.role, self.name, password
            )
            return m.Login(self.name, self.role, sealed)

        self._take(expect(self.balancer.call(build), m.Ticket))
        return self

    def mfa_challenges(self) -> tuple[ApprovalData, ...]:
        """Return what the user's second factor is to sign, from every HSM in reach.

        Raises:
            TamperedError: an HSM wants something else signed: an approval, say.
            UnavailableError: none answers.
        """
        asked = m.MfaChallenge(self.name, self.role)
        found = []
        for hsm in self.balancer.hsms:
            try:
                reply = expect(self.balancer.call_one(hsm, lambda _: asked), m.Data)
            except UnavailableError:
                continue
            data = ApprovalData.parse(reply.data)
            wanted = possession_words(MFA_LOGIN, self.balancer.cluster, self.role, self.name, hsm)
            if data.service is not Service.MFA or not data.words.startswith(f"{wanted} "):
                raise TamperedError(f"{hsm} wants something else signed than a log-in at it")
            found.append(data)
        if not found:
            raise UnavailableError(f"no HSM of {self.balancer.cluster} answers")
        return tuple(found)

    def login_mfa(self, password: bytes, factors: Sequence[m.Factor]) -> Self:
        """Log in with a second factor, at one of the HSMs whose challenges it has signed."""
        last: OrchestratorError = UsageError("no part of the token file is signed")
        for factor in factors:
            words = ApprovalData.parse(factor.approval_data).words
            hsm = next((h for h in self.balancer.hsms if f" hsm={h} " in words), None)
            if hsm is None:
                continue

            def build(link: Link, factor: m.Factor = factor) -> m.Request:
                sealed = seal_password(
                    "login", link.welcome, link.member, self.role, self.name, password
                )
                return m.Login(self.name, self.role, sealed, factor)

            try:
                self._take(expect(self.balancer.call_one(hsm, build), m.Ticket))
            except UnavailableError as exc:
                last = exc
                continue
            return self
        raise last

    def login_with_ticket(self, ticket: bytes) -> Self:
        """Go on with a login that its user has lent to this Unix user."""
        renewal = m.Renew(ticket)
        self._take(expect(self.balancer.call(lambda _: renewal), m.Ticket))
        return self

    def login_tickets(self) -> tuple[m.LoginTicketView, ...]:
        """Return the user's login tickets; an admin sees everybody's."""
        return self._call(lambda ticket, _: m.ListLoginTickets(ticket), m.LoginTicketPage).tickets

    def take_login_ticket(self, login: str) -> bytes:
        """Return the ticket of a login that this user has lent."""
        return self._call(
            lambda ticket, seen: m.TakeLoginTicket(ticket, seen, login), m.Ticket
        ).ticket

    def _take(self, ticket: m.Ticket) -> None:
        self._ticket = ticket
        self._seen = max(self._seen, ticket.seq)

    @property
    def login_id(self) -> str:
        """Return the login's id, as the audit log names it."""
        return self._ticket.login if self._ticket else ""

    @property
    def statistics(self) -> Statistics:
        """Return what this session's requests met."""
        return self.balancer.statistics

    def heard(self, seq: int) -> None:
        """Note that the ledger has reached `seq`: an HSM behind it is not asked first."""
        self._seen = max(self._seen, seq)

    def ticket(self) -> bytes:
        """Return a ticket that is good for a while yet, renewing it when needed."""
        held = self._ticket
        if held is None:
            raise NotFoundError("login", self.name, "log in first")
        if self._clock.now_ms() < held.expires_at - RENEW_BEFORE_MS:
            return held.ticket
        with self._renewing:
            held = self._ticket
            if held is not None and self._clock.now_ms() >= held.expires_at - RENEW_BEFORE_MS:
                renewal = m.Renew(held.ticket)
                self._take(expect(self.balancer.call(lambda _: renewal), m.Ticket))
            return self._ticket.ticket if self._ticket else b""

    def _call(
        self, build: Callable[[bytes, int], m.Request], kind: type[T], hsm: str | None = None
    ) -> T:
        """Send a user's request, to one HSM or to the best."""
        ticket = self.ticket()
        try:
            request = build(ticket, self._seen)
            return expect(self._send(request, hsm), kind)
        except RemoteError as exc:
            if exc.code != "behind" or hsm is not None:
                raise
        # Every HSM in reach is behind what this client has seen: they serve what they know.
        return expect(self._send(build(ticket, 0), None), kind)

    def use(
        self, ref: int, build: Callable[[bytes, int], m.Request], hsm: str | None = None
    ) -> bytes:
        """Send a request about a key, to the HSM where it lives, and return its data."""
        return self._call(build, m.Data, self.session_keys.home(ref) or hsm).data

    def begin_use(
        self, ref: int, build: Callable[[bytes, int], m.Request], on_reply: OnReply
    ) -> Channel | None:
        """Begin what `use` does; None where that cannot be done without waiting."""
        held = self._ticket
        if held is None or self._clock.now_ms() >= held.expires_at - RENEW_BEFORE_MS:
            return None
        request = build(held.ticket, self._seen)
        return self.balancer.begin(request, on_reply, self.session_keys.home(ref))

    def _send(self, request: m.Request, hsm: str | None) -> m.Reply:
        if hsm is not None:
            return self.balancer.call_one(hsm, lambda _: request)
        return self.balancer.call(lambda _: request)

    def list_objects(
        self, object_filter: ObjectFilter, offset: int = 0, limit: int = 100
    ) -> m.ObjectPage:
        """Return a page of the certificates and data objects that match, and how many do in all.

        A page ends early where it would not fit a frame: go on from what it holds.
        """
        return self._call(
            lambda ticket, seen: m.ListObjects(ticket, seen, object_filter, offset, limit),
            m.ObjectPage,
        )

    # --- keys ---

    def list_keys(
        self, key_filter: KeyFilter, offset: int = 0, limit: int = 10, hsm: str | None = None
    ) -> m.KeyPage:
        """Return a page of the keys that match, and how many match in all; `hsm` chooses whose.

        Session keys are listed by the HSM where they live: the last one that made one is asked.
        """

        def build(ticket: bytes, seen: int) -> m.ListKeys:
            return m.ListKeys(ticket, seen, key_filter, offset, limit)

        chosen = self.session_keys.home(key_filter.ref) or hsm
        if chosen is None and (latest := self.session_keys.latest_home):
            try:
                return self._call(build, m.KeyPage, latest)
            except UnavailableError:
                pass  # its session keys are gone; token keys are everywhere
            except RemoteError as exc:
                if exc.code != "behind":
                    raise
        return self._call(build, m.KeyPage, chosen)

    def find_key(self, key_filter: KeyFilter, hsm: str | None = None) -> Key:
        """Return the one key that matches; `hsm` chooses the HSM that is asked.

        Raises:
            NotFoundError: none does.
            RefusedError: `ambiguous-filter`, several do.
        """
        page = self.list_keys(key_filter, 0, 2, hsm)
        if page.total > 1:
            raise RefusedError(
                "ambiguous-filter",
                f"Key selection criteria matched {page.total} keys. Refine selection criteria to "
                "select a single key.",
            )
        if not page.keys:
            raise NotFoundError("key", "that matches", "see `cloister key list`")
        return page.keys[0]

    def key(self, label: str, key_class: str = "private-key") -> Key:
        """Return the one key of this class with this label."""
        terms = (("label", label), ("class", key_class))
        return self.find_key(KeyFilter(attributes=terms))

    def sign(
        self, ref: int, mechanism: SignMechanism, digest: bytes, hsm: str | None = None
    ) -> bytes:
        """Sign a digest; ECDSA gives r || s."""
        return self.use(ref, lambda ticket, seen: m.Sign(ticket, seen, ref, mechanism, digest), hsm)

    def sign_request(self, ref: int, mechanism: SignMechanism, digest: bytes) -> m.Sign:
        """Return the request that `sign` would send, for one HSM that the caller chooses."""
        return m.Sign(self.ticket(), self._seen, ref, mechanism, digest)

    def sign_data(
        self,
        key: Key,
        data: bytes,
        scheme: SignScheme,
        hash_function: HashFunction = HashFunction.SHA256,
    ) -> bytes:
        """Digest `data` here and sign it there; the PSS salt is as long as the digest."""
        digest = hashlib.new(hash_function, data).digest()
        return self.sign(key.ref, SignMechanism(scheme, hash_function, len(digest)), digest)

    def verify_data(
        self,
        key: Key,
        data: bytes,
        signature: bytes,
        scheme: SignScheme,
        hash_function: HashFunction = HashFunction.SHA256,
    ) -> None:
        """Verify here with the public half; raise RefusedError when it does not hold."""
        digest = hashlib.new(hash_function, data).digest()
        mechanism = SignMechanism(scheme, hash_function, len(digest))
        verify_signature(key.public, mechanism, digest, signature)

    def encrypt(
        self,
        ref: int,
        plaintext: bytes,
        aad: bytes = b"",
        *,
        mechanism: CipherMechanism | None = None,
    ) -> bytes:
        """Encrypt with AES-GCM and `aad`, or with `mechanism`; what the HSM draws comes first.

        `rsa-oaep` and `rsa-pkcs` are computed here, with either half of the pair; the HSM decrypts
        the former only where its token has the hash function (SoftHSM: sha1).
        """
        chosen = _cipher(mechanism, aad)
        if chosen.key_type is KeyType.RSA:
            public = self.find_key(KeyFilter(ref=ref)).public
            if chosen.scheme is CipherScheme.RSA_PKCS:
                return encrypt_pkcs1(public, plaintext)
            return encrypt_oaep(public, chosen, plaintext)
        return self.use(ref, lambda ticket, seen: m.Encrypt(ticket, seen, ref, chosen, plaintext))

    def decrypt(
        self,
        ref: int,
        ciphertext: bytes,
        aad: bytes = b"",
        *,
        mechanism: CipherMechanism | None = None,
    ) -> bytes:
        """Open what `encrypt` made with the same `aad` or `mechanism`."""
        chosen = _cipher(mechanism, aad)
        return self.use(ref, lambda ticket, seen: m.Decrypt(ticket, seen, ref, chosen, ciphertext))

    def mac(self, ref: int, mechanism: MacMechanism, data: bytes, length: int = 0) -> bytes:
        """Return the MAC of `data` under an AES key or a generic secret, or its first bytes."""
        count = mechanism.check_length(length)
        whole = self.use(ref, lambda ticket, seen: m.Mac(ticket, seen, ref, mechanism, data))
        return whole[:count]

    def verify_mac(
        self, ref: int, mechanism: MacMechanism, data: bytes, mac: bytes, length: int = 0
    ) -> None:
        """Have an HSM compare a MAC; raise RemoteError (`signature-invalid`) when it is wrong.

        `length` says how many bytes of it count, 0 that all do.
        """
        self._call(
            lambda ticket, seen: m.VerifyMac(ticket, seen, ref, mechanism, data, mac, length),
            m.Done,
            self.session_keys.home(ref),
        )

    def random(self, count: int) -> bytes:
        """Return random bytes from an HSM."""
        return self._call(lambda ticket, _: m.Random(ticket, count), m.Data).data

    def wrap_key(self, payload: int, wrapper: int, mechanism: WrapMechanism) -> bytes:
        """Return key `payload` wrapped under key `wrapper`."""
        return self._call(
            lambda ticket, seen: m.WrapKey(ticket, seen, payload, wrapper, mechanism.check()),
            m.Data,
            self.session_keys.home(payload) or self.session_keys.home(wrapper),
        ).data

    def seal_key(self, ref: int, cluster: str, credential: Credential) -> bytes:
        """Have a token key sealed to an HSM of a clone."""
        return self._call(
            lambda ticket, seen: m.SealKey(ticket, seen, ref, cluster, credential), m.Data
        ).data

    def seal_user(self, name: str, role: Role, cluster: str, credential: Credential) -> bytes:
        """Have a user sealed to an HSM of a clone."""
        return self._call(
            lambda ticket, seen: m.SealUser(ticket, seen, name, role, cluster, credential), m.Data
        ).data

    def close(self) -> None:
        """Forget the ticket and end the connections; session keys die with them."""
        self._ticket = None
        self.balancer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cipher(mechanism: CipherMechanism | None, aad: bytes) -> CipherMechanism:
    if mechanism is None:
        return CipherMechanism(CipherScheme.AES_GCM, aad=aad)
    if aad:
        raise UsageError("additional data is part of the mechanism, where one is given")
    return mechanism.check()
