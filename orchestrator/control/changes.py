"""What a logged-in user changes: users, hosts, keys, the recovery key."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from orchestrator.client.session import Session
from orchestrator.client.trust import seal_clear_key, seal_password
from orchestrator.control.controller import Ask, Controller, Outcome
from orchestrator.control.factors import FactorChanges
from orchestrator.control.hosts import HostInfo
from orchestrator.control.quorum import QuorumChanges
from orchestrator.control.views import ChangeReport
from orchestrator.model.clock import Clock
from orchestrator.model.errors import NotFoundError, UnavailableError
from orchestrator.model.key_spec import Agreement, KeySpec, KeyType
from orchestrator.model.keys import SESSION_KEY_BIT, Key, parse_bool
from orchestrator.model.objects import ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role, check_password, parse_user_name
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.sealed.recovery import SEED_BYTES, point_of, recovery_key, split_seed
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m


class Changes:
    """Changes in one user's name. `request` repeats an earlier request by its id."""

    def __init__(
        self,
        controller: Controller,
        session: Session,
        anchor: bytes,
        hosts: Callable[[], list[HostInfo]],
        clock: Clock,
    ) -> None:
        self._controller, self._session, self._anchor = controller, session, anchor
        self._hosts = hosts
        self.quorum = QuorumChanges(
            controller, session, self._outcome, lambda: clock.now_ms() // 1000
        )
        self.factors = FactorChanges(controller, session, clock, self._change, self._sealing)

    def create_user(
        self,
        name: str,
        role: Role,
        password: bytes,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Make a user."""
        check_password(password)
        name = parse_user_name(name)
        ask = self._sealing(role, name, password, lambda p: m.CreateUser(name, role, p))
        return self._change(ask, request, approval).report

    def change_password(  # the flags of one change
        self,
        name: str,
        role: Role,
        password: bytes,
        *,
        deregister_mfa: bool = False,
        deregister_quorum: bool = False,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Set a password, which ends the user's logins and unlocks."""
        check_password(password)
        name = parse_user_name(name)
        ask = self._sealing(
            role,
            name,
            password,
            lambda p: m.ChangePassword(name, role, p, deregister_mfa, deregister_quorum),
        )
        return self._change(ask, request, approval).report

    def _sealing(
        self, role: Role, name: str, password: bytes, build: Callable[[bytes], m.ChangeRequest]
    ) -> Ask:
        def ask(hsm: str) -> m.ChangeRequest:
            link = self._controller.roster.link(hsm, self._anchor)
            return build(
                seal_password("new-password", link.welcome, link.member, role, name, password)
            )

        return ask

    def delete_user(
        self,
        name: str,
        role: Role,
        *,
        transfer_to: str = "",
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Delete a user who owns no keys, or whose keys `transfer_to` gets."""
        change = m.DeleteUser(parse_user_name(name), role, transfer_to)
        return self._outcome(change, request, approval).report

    def unlock_user(
        self,
        name: str,
        role: Role,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """End a lock; password and logins stay."""
        return self._outcome(m.UnlockUser(parse_user_name(name), role), request, approval).report

    def disable_user(
        self,
        name: str,
        role: Role,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Let a user log in no more, and end the user's logins."""
        return self._outcome(m.DisableUser(parse_user_name(name), role), request, approval).report

    def enable_user(
        self,
        name: str,
        role: Role,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Let a disabled user log in again."""
        return self._outcome(m.EnableUser(parse_user_name(name), role), request, approval).report

    def transfer_keys(
        self,
        name: str,
        to: str,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Give all keys of one crypto user to another."""
        change = m.TransferKeys(parse_user_name(name), parse_user_name(to))
        return self._outcome(change, request, approval).report

    # --- hosts, keys, recovery ---

    def admit_host(
        self, host: str, *, approval: TokenFile | None = None, request: str | None = None
    ) -> ChangeReport:
        """Let HSMs on a host join."""
        return self._outcome(m.AdmitHost(host, self.host_key(host)), request, approval).report

    def host_key(self, host: str) -> bytes:
        """Return a host's public key, as admission names it."""
        key = next((h.key for h in self._hosts() if h.name == host), None)
        if key is None:
            raise NotFoundError("host", host, "see `cloister host list`")
        return key

    def expel_host(
        self, host: str, *, approval: TokenFile | None = None, request: str | None = None
    ) -> ChangeReport:
        """Let no further HSM of a host join."""
        return self._outcome(m.ExpelHost(host), request, approval).report

    def generate_keys(
        self, spec: KeySpec, drafts: tuple[m.KeyDraft, ...], *, request: str | None = None
    ) -> tuple[ChangeReport, tuple[Key, ...]]:
        """Make a token key or a pair; return the keys, public first."""
        spec.check()
        change = m.GenerateKeys(spec, drafts)
        outcome = self._outcome(change, request)
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

    def delete_key(
        self, ref: int, *, approval: TokenFile | None = None, request: str | None = None
    ) -> ChangeReport:
        """Delete a token key from every HSM; backups still hold it."""
        return self._outcome(m.DeleteKey(ref), request, approval).report

    def put_object(
        self, draft: ObjectDraft, *, request: str | None = None
    ) -> tuple[ChangeReport, int]:
        """Store a certificate or data object; return its reference."""
        draft.check()
        report = self._outcome(m.PutObject(draft), request).report
        return report, report.seq << 16

    def change_object(
        self, ref: int, edit: ObjectEdit, *, request: str | None = None
    ) -> ChangeReport:
        """Change a certificate or data object."""
        return self._outcome(m.EditObject(ref, edit), request).report

    def delete_object(self, ref: int, *, request: str | None = None) -> ChangeReport:
        """Delete a certificate or data object from every HSM; backups still hold it."""
        return self._outcome(m.DeleteObject(ref), request).report

    def set_attribute(
        self,
        ref: int,
        name: str,
        value: str,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> tuple[ChangeReport | None, int]:
        """Change an attribute of a key (CLI name and value); return the report and its reference.

        A session key changes on its HSM alone, without a report; with `token` it becomes a token
        key, whose reference is another.
        """
        if not ref & SESSION_KEY_BIT:
            return self._outcome(m.ChangeKey(ref, name, value), request, approval).report, ref
        if name != "token" or not parse_bool(name, value):
            self._session.session_keys.change(ref, name, value)
            return None, ref
        home = self._session.session_keys.home_of(ref)
        report, key = self._one_key(lambda _: m.KeepSessionKey(ref), request, home)
        self._session.session_keys.forget(ref)
        return report, key.ref

    def share_key(
        self,
        ref: int,
        user: str,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Let another crypto user use a token key."""
        return self._outcome(m.ShareKey(ref, parse_user_name(user)), request, approval).report

    def unshare_key(
        self,
        ref: int,
        user: str,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Let a crypto user use a token key no more."""
        return self._outcome(m.UnshareKey(ref, parse_user_name(user)), request, approval).report

    def unwrap_key(
        self,
        unwrapper: int,
        mechanism: WrapMechanism,
        wrapped: bytes,
        key_type: KeyType,
        draft: m.KeyDraft,
        *,
        request: str | None = None,
    ) -> tuple[ChangeReport, Key]:
        """Make a token key of one that was wrapped outside; `draft` says how it shall be."""
        change = m.UnwrapKey(unwrapper, mechanism.check(), wrapped, key_type, draft)
        return self._one_key(lambda _: change, request, self._session.session_keys.home(unwrapper))

    def import_public_key(
        self, public: bytes, draft: m.KeyDraft, *, request: str | None = None
    ) -> tuple[ChangeReport, Key]:
        """Make a token key of an RSA or EC public key (PEM or DER)."""
        return self._one_key(lambda _: m.ImportPublicKey(public, draft), request)

    def _one_key(
        self, ask: Ask, request: str | None, author: str | None = None
    ) -> tuple[ChangeReport, Key]:
        outcome = self._change(ask, request, None, author)
        if len(outcome.keys) != 1:
            raise UnavailableError(
                f"the key is made and no HSM tells which; ask again with request id "
                f"{outcome.report.request}"
            )
        return outcome.report, outcome.keys[0]

    def create_recovery_key(
        self,
        threshold: int,
        shares: int,
        keep: Callable[[list[str]], None] = lambda _: None,
        *,
        approval: TokenFile | None = None,
    ) -> list[str]:
        """Make a recovery key here, enter its public half, and return the custodians' words.

        Args:
            threshold: how many shares give the key back.
            shares: how many there are.
            keep: is given the words before the key becomes the cluster's, so that no answer
                that is late or lost can leave a recovery key that nobody holds.
            approval: of other admins.
        """
        seed = secrets.token_bytes(SEED_BYTES)
        words = split_seed(seed, threshold, shares)
        keep(words)
        change = m.SetRecoveryKey(point_of(recovery_key(seed)), threshold, shares)
        self._outcome(change, None, approval)
        return words

    def logout(self) -> ChangeReport:
        """End the login on every HSM."""
        return self._outcome(m.EndLogin()).report

    def _outcome(
        self,
        change: m.ChangeRequest,
        request: str | None = None,
        approval: TokenFile | None = None,
    ) -> Outcome:
        return self._change(lambda _: change, request, approval)

    def _change(
        self,
        ask: Ask,
        request: str | None,
        approval: TokenFile | None,
        author: str | None = None,
    ) -> Outcome:
        outcome = self._controller.change(
            ask,
            ticket=self._session.ticket(),
            request=request,
            approval=approval.approval if approval else None,
            author=author,
        )
        self._session.heard(outcome.report.seq)
        return outcome
