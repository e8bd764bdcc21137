"""What a logged-in user changes: users, hosts, keys, the recovery key."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from orchestrator.client.session import Session
from orchestrator.client.trust import seal_clear_key, seal_password
from orchestrator.control.controller import Ask, Controller
from orchestrator.control.hosts import HostInfo
from orchestrator.control.views import ChangeReport
from orchestrator.model.errors import NotFoundError, UnavailableError
from orchestrator.model.key_spec import Agreement, KeySpec
from orchestrator.model.keys import Key
from orchestrator.model.objects import ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role, check_password, parse_user_name
from orchestrator.sealed.recovery import SEED_BYTES, point_of, recovery_key, split_seed
from orchestrator.wire import messages as m


class Changes:
    """Changes in one user's name. `request` repeats an earlier request by its id."""

    def __init__(
        self,
        controller: Controller,
        session: Session,
        anchor: bytes,
        hosts: Callable[[], list[HostInfo]],
    ) -> None:
        self._controller, self._session, self._anchor = controller, session, anchor
        self._hosts = hosts

    def create_user(
        self, name: str, role: Role, password: bytes, *, request: str | None = None
    ) -> ChangeReport:
        """Make a user."""
        check_password(password)
        name = parse_user_name(name)
        ask = self._sealing(role, name, password, m.CreateUser)
        return self._change(ask, request)

    def change_password(
        self, name: str, role: Role, password: bytes, *, request: str | None = None
    ) -> ChangeReport:
        """Set a password, which ends the user's logins and unlocks."""
        check_password(password)
        name = parse_user_name(name)
        ask = self._sealing(role, name, password, m.ChangePassword)
        return self._change(ask, request)

    def _sealing(
        self,
        role: Role,
        name: str,
        password: bytes,
        build: Callable[[str, Role, bytes], m.ChangeRequest],
    ) -> Ask:
        def ask(hsm: str) -> m.ChangeRequest:
            link = self._controller.roster.link(hsm, self._anchor)
            sealed = seal_password("new-password", link.welcome, link.member, role, name, password)
            return build(name, role, sealed)

        return ask

    def delete_user(self, name: str, role: Role, *, request: str | None = None) -> ChangeReport:
        """Delete a user who owns no keys."""
        return self._plain(m.DeleteUser(parse_user_name(name), role), request)

    def admit_host(self, host: str, *, request: str | None = None) -> ChangeReport:
        """Let HSMs on a host join."""
        key = next((h.key for h in self._hosts() if h.name == host), None)
        if key is None:
            raise NotFoundError("host", host, "see `cloister host list`")
        return self._plain(m.AdmitHost(host, key), request)

    def expel_host(self, host: str, *, request: str | None = None) -> ChangeReport:
        """Let no further HSM of a host join."""
        return self._plain(m.ExpelHost(host), request)

    def generate_keys(
        self, spec: KeySpec, drafts: tuple[m.KeyDraft, ...], *, request: str | None = None
    ) -> tuple[ChangeReport, tuple[Key, ...]]:
        """Make a token key or a pair; return the keys, public first."""
        spec.check()
        change = m.GenerateKeys(spec, drafts)
        outcome = self._controller.change(
            lambda _: change, ticket=self._session.ticket(), request=request
        )
        self._session.heard(outcome.report.seq)
        return outcome.report, outcome.keys

    def derive_key(
        self,
        base: int,
        agreement: Agreement,
        spec: KeySpec,
        draft: m.KeyDraft,
        *,
        request: str | None = None,
    ) -> tuple[ChangeReport, Key]:
        """Derive a token key with ECDH."""
        change = m.DeriveKeys(base, agreement, spec, draft)
        return self._one_key(lambda _: change, request)

    def import_clear_key(
        self, spec: KeySpec, value: bytes, draft: m.KeyDraft, *, request: str | None = None
    ) -> tuple[ChangeReport, Key]:
        """Make a token key of a value given in clear; it goes sealed to a checked HSM.

        Args:
            spec: what it is.
            value: a secret key's bytes, or a private key's PKCS#8 (see `client.clear_keys`).
            draft: class, label and attributes.
            request: see above.
        """
        spec.check()

        def ask(hsm: str) -> m.ChangeRequest:
            link = self._controller.roster.link(hsm, self._anchor)
            name = self._session.name
            sealed = seal_clear_key(link.welcome, link.member, name, spec, draft, value)
            return m.ImportClearKey(spec, draft, sealed)

        return self._one_key(ask, request)

    def copy_key(
        self, ref: int, copy: m.KeyCopy, *, request: str | None = None
    ) -> tuple[ChangeReport, Key]:
        """Make another token key of the same value; its attributes can only be tighter."""
        return self._one_key(lambda _: m.CopyKey(ref, copy), request)

    def _one_key(self, ask: Ask, request: str | None) -> tuple[ChangeReport, Key]:
        outcome = self._controller.change(ask, ticket=self._session.ticket(), request=request)
        self._session.heard(outcome.report.seq)
        if not outcome.keys:
            raise UnavailableError(
                f"the key is made and no HSM tells which; ask again with request id "
                f"{outcome.report.request}"
            )
        return outcome.report, outcome.keys[0]

    def delete_key(self, ref: int, *, request: str | None = None) -> ChangeReport:
        """Delete a token key from every HSM; backups still hold it."""
        return self._plain(m.DeleteKey(ref), request)

    def put_object(
        self, draft: ObjectDraft, *, request: str | None = None
    ) -> tuple[ChangeReport, int]:
        """Store a certificate or data object; return its reference."""
        draft.check()
        report = self._plain(m.PutObject(draft), request)
        return report, report.seq << 16

    def change_object(
        self, ref: int, edit: ObjectEdit, *, request: str | None = None
    ) -> ChangeReport:
        """Change a certificate or data object."""
        return self._plain(m.EditObject(ref, edit), request)

    def delete_object(self, ref: int, *, request: str | None = None) -> ChangeReport:
        """Delete a certificate or data object from every HSM; backups still hold it."""
        return self._plain(m.DeleteObject(ref), request)

    def create_recovery_key(
        self, threshold: int, shares: int, keep: Callable[[list[str]], None] = lambda _: None
    ) -> list[str]:
        """Make a recovery key here, enter its public half, and return the custodians' words.

        Args:
            threshold: how many shares give the key back.
            shares: how many there are.
            keep: is given the words before the key becomes the cluster's, so that no answer
                that is late or lost can leave a recovery key that nobody holds.
        """
        seed = secrets.token_bytes(SEED_BYTES)
        words = split_seed(seed, threshold, shares)
        keep(words)
        self._plain(m.SetRecoveryKey(point_of(recovery_key(seed)), threshold, shares), None)
        return words

    def logout(self) -> ChangeReport:
        """End the login on every HSM."""
        return self._plain(m.EndLogin(), None)

    def _plain(self, change: m.ChangeRequest, request: str | None) -> ChangeReport:
        return self._change(lambda _: change, request)

    def _change(self, ask: Ask, request: str | None) -> ChangeReport:
        outcome = self._controller.change(ask, ticket=self._session.ticket(), request=request)
        self._session.heard(outcome.report.seq)
        return outcome.report
