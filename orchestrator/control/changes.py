"""What a logged-in user changes: users, hosts, keys, the recovery key."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from orchestrator.client.session import Session
from orchestrator.client.trust import seal_password
from orchestrator.control.controller import Ask, Controller
from orchestrator.control.hosts import HostInfo
from orchestrator.control.views import ChangeReport
from orchestrator.model.errors import NotFoundError
from orchestrator.model.key_spec import KeySpec
from orchestrator.model.keys import SESSION_KEY_BIT, Key, parse_bool
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

    def set_attribute(
        self, ref: int, name: str, value: str, *, request: str | None = None
    ) -> tuple[ChangeReport | None, int]:
        """Change an attribute of a key (CLI name and value); return the report and its reference.

        A session key changes on its HSM alone, without a report; with `token` it becomes a token
        key, whose reference is another.
        """
        if not ref & SESSION_KEY_BIT:
            return self._plain(m.ChangeKey(ref, name, value), request), ref
        if name != "token" or not parse_bool(name, value):
            self._session.change_session_key(ref, name, value)
            return None, ref
        home = self._session.home_of(ref)
        outcome = self._controller.change(
            lambda _: m.KeepSessionKey(ref),
            ticket=self._session.ticket(),
            request=request,
            author=home,
        )
        self._session.forget_session_key(ref)
        self._session.heard(outcome.report.seq)
        return outcome.report, outcome.keys[0].ref if outcome.keys else 0

    def share_key(self, ref: int, user: str, *, request: str | None = None) -> ChangeReport:
        """Let another crypto user use a token key."""
        return self._plain(m.ShareKey(ref, parse_user_name(user)), request)

    def unshare_key(self, ref: int, user: str, *, request: str | None = None) -> ChangeReport:
        """Let a crypto user use a token key no more."""
        return self._plain(m.UnshareKey(ref, parse_user_name(user)), request)

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
