"""Keys that live on one HSM, until log-out or the end of the connection to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from orchestrator.client.balancer import Balancer, Link
from orchestrator.client.connection import expect
from orchestrator.client.trust import seal_clear_key
from orchestrator.model.errors import NotFoundError, TamperedError
from orchestrator.model.key_spec import Agreement, KeySpec, KeyType
from orchestrator.model.keys import Key
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.wire import messages as m

T = TypeVar("T")


class Call(Protocol):
    """Sends a user's request, to one HSM or to the best."""

    def __call__(
        self, build: Callable[[bytes, int], m.Request], kind: type[T], hsm: str | None = None
    ) -> T:
        """Raise TamperedError when the reply is of another kind."""


class SessionKeys:
    """The session keys of one login, and where each lives."""

    def __init__(
        self, balancer: Balancer, name: str, ticket: Callable[[], bytes], call: Call
    ) -> None:
        self._balancer, self._name, self._ticket, self._call = balancer, name, ticket, call
        self._homes: dict[int, str] = {}

    def make(
        self, spec: KeySpec, drafts: tuple[m.KeyDraft, ...], hsm: str | None = None
    ) -> tuple[Key, ...]:
        """Make keys on one HSM that live until log-out, or until the connection ends."""
        home = hsm or self._balancer.least_busy()
        page = self._call(
            lambda ticket, _: m.MakeSessionKeys(ticket, spec, drafts), m.KeyPage, home
        )
        self._homes.update({key.ref: home for key in page.keys})
        return page.keys

    def derive(
        self,
        base: int,
        agreement: Agreement,
        spec: KeySpec,
        draft: m.KeyDraft,
        hsm: str | None = None,
    ) -> Key:
        """Derive a key with ECDH on one HSM, where it lives as those of `make` do."""
        home = self._homes.get(base) or hsm or self._balancer.least_busy()
        page = self._call(
            lambda ticket, seen: m.DeriveSessionKey(ticket, seen, base, agreement, spec, draft),
            m.KeyPage,
            home,
        )
        return self._only(page, home)

    def import_clear(
        self, spec: KeySpec, value: bytes, draft: m.KeyDraft, hsm: str | None = None
    ) -> Key:
        """Give one HSM a key in clear, which lives there as those of `make` do.

        Args:
            spec: what it is.
            value: a secret key's bytes or a private key's PKCS#8 (see `client.clear_keys`); it
                goes sealed to an HSM whose chain to the anchor was checked.
            draft: class, label and attributes.
            hsm: where; None takes the least busy.
        """
        home, ticket = hsm or self._balancer.least_busy(), self._ticket()

        def build(link: Link) -> m.Request:
            sealed = seal_clear_key(link.welcome, link.member, self._name, spec, draft, value)
            return m.ImportSessionKey(ticket, spec, draft, sealed)

        return self._only(expect(self._balancer.call_one(home, build), m.KeyPage), home)

    def copy(self, ref: int, copy: m.KeyCopy, hsm: str | None = None) -> Key:
        """Copy a token key of one's own to one HSM, where it lives as a session key."""
        home = hsm or self._balancer.least_busy()
        page = self._call(
            lambda ticket, seen: m.CopySessionKey(ticket, seen, ref, copy), m.KeyPage, home
        )
        return self._only(page, home)

    def unwrap(
        self,
        unwrapper: int,
        mechanism: WrapMechanism,
        wrapped: bytes,
        key_type: KeyType,
        draft: m.KeyDraft,
    ) -> Key:
        """Unwrap a key on one HSM, where it lives as those of `make` do."""
        home = self._homes.get(unwrapper) or self._balancer.least_busy()
        page = self._call(
            lambda ticket, seen: m.UnwrapSessionKey(
                ticket, seen, unwrapper, mechanism.check(), wrapped, key_type, draft
            ),
            m.KeyPage,
            home,
        )
        return self._only(page, home)

    def _only(self, page: m.KeyPage, home: str) -> Key:
        """Return the one session key that an HSM has made."""
        if len(page.keys) != 1:
            raise TamperedError("the HSM answered with another number of keys than one")
        self._homes[page.keys[0].ref] = home
        return page.keys[0]

    def change(self, ref: int, name: str, value: str) -> None:
        """Change an attribute of a session key (CLI name and value)."""
        home = self.home_of(ref)
        self._call(lambda ticket, _: m.ChangeSessionKey(ticket, ref, name, value), m.Done, home)

    def drop(self, ref: int) -> None:
        """Delete a session key."""
        home = self.home_of(ref)
        self.forget(ref)
        self._call(lambda ticket, _: m.DropSessionKey(ticket, ref), m.Done, home)

    def home(self, ref: int) -> str | None:
        """Return the HSM where a session key lives, None for token keys."""
        return self._homes.get(ref)

    @property
    def latest_home(self) -> str | None:
        """The HSM of the session key that was made last."""
        homes = list(self._homes.values())
        return homes[-1] if homes else None

    def home_of(self, ref: int) -> str:
        """Return the HSM where a session key of this session lives."""
        try:
            return self._homes[ref]
        except KeyError:
            raise NotFoundError("session key", f"0x{ref:016x}") from None

    def forget(self, ref: int) -> None:
        """Note that a session key has become a token key."""
        self._homes.pop(ref, None)
