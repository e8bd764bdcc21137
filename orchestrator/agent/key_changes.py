"""What is asked about keys, as changes of the ledger: the token work is done here."""

from __future__ import annotations

from typing import assert_never

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.making import Making, token_key
from orchestrator.agent.replicating import Replicating
from orchestrator.agent.session_keys import SessionKeys
from orchestrator.agent.wrapping import Wrapping
from orchestrator.model import entries as e
from orchestrator.model.keys import Key
from orchestrator.model.roles import parse_user_name
from orchestrator.wire import messages as m


class KeyChanges:
    """Changes of token keys that crypto users, and of `trusted` an admin, ask for."""

    def __init__(
        self,
        core: Core,
        making: Making,
        session_keys: SessionKeys,
        wrapping: Wrapping,
        replicating: Replicating,
    ) -> None:
        self._core, self._making = core, making
        self._session_keys, self._wrapping = session_keys, wrapping
        self._replicating = replicating

    def change(self, asked: m.KeyRequest, caller: Caller) -> e.Change:
        """Return the change, with the keys that it makes."""
        actor = caller.actor
        match asked:
            case m.DeleteKey():
                return e.KeyDeleted(actor, asked.ref)
            case m.ChangeKey():
                return e.KeyChanged(actor, asked.ref, asked.name, asked.value)
            case m.ShareKey():
                return e.KeyShared(actor, asked.ref, parse_user_name(asked.user))
            case m.UnshareKey():
                return e.KeyUnshared(actor, asked.ref, parse_user_name(asked.user))
            case m.TakeReplica():
                return self._replicating.take(asked, caller)
            case _:
                return e.KeysCreated(actor, self._made(asked, caller))

    def _made(self, asked: m.NewKeyRequest, caller: Caller) -> tuple[Key, ...]:
        match asked:
            case m.GenerateKeys():
                return self._making.make_keys(asked.spec, asked.drafts, caller, token=True)
            case m.DeriveKeys():
                base = token_key(self._core, asked.base, caller)
                return (
                    self._making.derive_key(
                        base, asked.agreement, asked.spec, asked.draft, caller, token=True
                    ),
                )
            case m.UnwrapKey():
                return (self._wrapping.unwrap(asked, caller),)
            case m.ImportPublicKey():
                return (self._wrapping.import_public(asked, caller),)
            case m.KeepSessionKey():
                return (self._session_keys.kept(asked.ref, caller),)
            case m.ImportClearKey():
                spec, draft = asked.spec, asked.draft
                return (self._making.import_key(spec, draft, asked.sealed, caller, token=True),)
            case m.CopyKey():
                source = token_key(self._core, asked.ref, caller)
                return (self._making.copy_key(source, asked.copy, caller, token=True),)
            case _:
                assert_never(asked)
