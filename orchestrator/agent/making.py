"""Making keys: attributes first, token work after, and nothing kept of what is not committed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchestrator.agent.core import Caller, Core
from orchestrator.model.attribute_rules import check_policy, guards_of, joined, paired
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_decisions import check_owner, check_sharing
from orchestrator.model.key_spec import Agreement, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import (
    SESSION_KEY_BIT,
    Attributes,
    Key,
    check_key_id,
    check_label,
    check_usable,
    copied_attributes,
    derived_attributes,
    imported_attributes,
    new_attributes,
)
from orchestrator.model.quorum import use_digest
from orchestrator.model.quorum_decisions import check_use
from orchestrator.model.roles import parse_user_name
from orchestrator.sealed.box import open_box
from orchestrator.tokens.store import GeneratedKey
from orchestrator.wire import messages as m


class Making:
    """Makes keys for crypto users, as blobs that have no place yet."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def make_keys(
        self, spec: KeySpec, drafts: tuple[m.KeyDraft, ...], caller: Caller, *, token: bool
    ) -> tuple[Key, ...]:
        """Make one secret key, or the two objects of a pair: public first."""
        spec.check()
        pair = spec.type in {KeyType.RSA, KeyType.EC}
        wanted = [KeyClass.PUBLIC, KeyClass.PRIVATE] if pair else [KeyClass.SECRET]
        if [draft.key_class for draft in drafts] != wanted:
            raise UsageError(f"{spec.type} makes {' and '.join(wanted)}")
        # Every rule is checked before the token is asked: a refused request costs it nothing.
        stays = False
        shaped = []
        for draft in drafts:
            attributes, key_id = new_attributes(
                draft.key_class, spec, requested_of(draft), token=token, stays=stays
            )
            stays = draft.key_class is KeyClass.PUBLIC and attributes.wrap
            shaped.append(self.key(spec, draft, attributes, key_id, caller))
        if pair:
            shaped = [*joined(paired(*shaped), {key.ref for key in shaped})]
        made = self._core.store.generate(spec)
        return tuple(with_material(key, made) for key in shaped)

    def derive_key(
        self,
        base: Key,
        agreement: Agreement,
        spec: KeySpec,
        draft: m.KeyDraft,
        caller: Caller,
        *,
        token: bool,
    ) -> Key:
        """Make a secret key of `base` and a peer's point; what guards `base` guards it too."""
        if base.key_class is not KeyClass.PRIVATE or not base.attributes.derive:
            raise RefusedError(
                "key-usage",
                f"key 0x{base.ref:016x} ({base.spec.type} {base.key_class}) has derive=false",
            )
        check_owner(base, caller.name, "derive from")
        spec.check_derived(base.spec)
        if draft.key_class is not KeyClass.SECRET:
            raise UsageError(f"ECDH makes {KeyClass.SECRET}")
        attributes, key_id = derived_attributes(base.attributes, requested_of(draft), token=token)
        shaped = self.key(spec, draft, attributes, key_id, caller)
        check_approved(self._core, "derive", base, caller, agreement, b"")
        with self._core.loaded.use(base) as handle:
            made = self._core.store.derive(handle, agreement, spec)
        return with_material(shaped, made)

    def import_key(
        self, spec: KeySpec, draft: m.KeyDraft, sealed: bytes, caller: Caller, *, token: bool
    ) -> Key:
        """Make a key of a value given in clear, which this process holds for this call alone."""
        spec.check()
        is_pair = spec.type in {KeyType.RSA, KeyType.EC}
        wanted = KeyClass.PRIVATE if is_pair else KeyClass.SECRET
        if draft.key_class is not wanted:
            raise UsageError(f"the value of a key of type {spec.type} makes a {wanted}")
        attributes, key_id = imported_attributes(wanted, spec, requested_of(draft), token=token)
        store, hsm = self._core.store, self._core.config.hsm
        info = m.clear_key_info(hsm, caller.peer.nonce, caller.name, spec, draft)
        value = open_box(store.box_public(), store.box_agree, sealed, info)
        shaped = self.key(spec, draft, attributes, key_id, caller)
        return with_material(shaped, store.import_key(spec, value))

    def copy_key(self, source: Key, copy: m.KeyCopy, caller: Caller, *, token: bool) -> Key:
        """Return a key of the same value, owned by the same user and shared with nobody."""
        check_owner(source, caller.name, "copy")
        if source.manage_quorum or source.use_quorum:
            # Approvals name one key by its reference: a copy would go around them.
            raise RefusedError("quorum-key", "a key with quorum values is not copied")
        given = _given_once(copy.attributes)
        attributes = copied_attributes(source.attributes, given, token=token)
        if not token:
            # The ledger, which compares the keys of one value, does not know it: it stays as it is.
            attributes = msgspec.structs.replace(attributes, modifiable=False)
        made = msgspec.structs.replace(
            source,
            ref=0 if token else self._session_ref(),
            label=source.label if copy.label is None else check_label(copy.label),
            id=source.id if copy.id is None else check_key_id(copy.id),
            shared=(),
            attributes=attributes,
            guards=msgspec.structs.replace(source.guards, is_copy=True),
        )
        check_policy(made)
        return made

    def key(
        self,
        spec: KeySpec,
        draft: m.KeyDraft,
        attributes: Attributes,
        key_id: bytes,
        caller: Caller,
    ) -> Key:
        """Return a key without material; only a token key has shared users or quorum values."""
        values = (draft.manage_quorum, draft.use_quorum)
        if not attributes.token and (draft.shared or any(values)):
            raise RefusedError(
                "session-key", "a session key is its login's alone: share and guard token keys"
            )
        key = Key(
            ref=0 if attributes.token else self._session_ref(),
            key_class=draft.key_class,
            spec=spec,
            label=draft.label,
            id=key_id,
            owner=caller.name,
            shared=tuple(sorted(parse_user_name(name) for name in draft.shared)),
            attributes=attributes,
            blob=b"",
            public=b"",
            check_value=b"",
            guards=guards_of(draft.key_class, draft.wrap_template, draft.unwrap_template),
            manage_quorum=draft.manage_quorum,
            use_quorum=draft.use_quorum,
        )
        check_sharing(self._core.state, key)
        return key

    def _session_ref(self) -> int:
        return SESSION_KEY_BIT | (int.from_bytes(self._core.store.random(8), "big") >> 1)


def with_material(key: Key, made: GeneratedKey) -> Key:
    """Return `key` with what the token made."""
    return msgspec.structs.replace(
        key,
        blob=b"" if key.key_class is KeyClass.PUBLIC else made.blob,
        public=made.public,
        check_value=made.check_value,
    )


def token_key(core: Core, ref: int, caller: Caller) -> Key:
    """Return a token key that the caller may use; another's is as if it were not there."""
    key = core.state.key(ref)
    check_usable(key, caller.name)
    return key


def check_approved(
    core: Core, operation: str, key: Key, caller: Caller, mechanism: object, data: bytes
) -> None:
    """Raise RefusedError unless a quorum key's use was approved, if this use must be; audited."""
    if key.use_quorum or key.manage_quorum:
        request = use_digest(operation, key.ref, caller.name, mechanism, data)
        try:
            check_use(core.state, core.clock.now_ms(), key, operation, request)
        except RefusedError as exc:
            who, subject = f"{caller.role}/{caller.name}", f"0x{key.ref:016x} {operation}"
            core.vault.audit(core.line("key-use-refused", who, subject, exc.code))
            raise


def requested_of(draft: m.KeyDraft) -> Mapping[str, str]:
    """Return the attributes that a draft asks for, each once."""
    check_label(draft.label)
    return _given_once(draft.attributes)


def _given_once(attributes: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    given = dict(attributes)
    if len(given) != len(attributes):
        raise UsageError("an attribute is given twice")
    return given
