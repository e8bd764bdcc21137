"""Keys as the CloudHSM CLI shows them: names and their order."""

from __future__ import annotations

from typing import Final

from orchestrator.cli import key_view
from orchestrator.model.key_details import length_bytes, public_details
from orchestrator.model.key_filter import attribute_text
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key

_BOOLEANS: Final = (
    "encrypt", "decrypt", "token", "always-sensitive", "derive", "destroyable", "extractable",
    "local", "modifiable", "never-extractable", "private", "sensitive", "sign", "trusted",
    "unwrap", "verify", "wrap", "wrap-with-trusted",
)  # fmt: skip


def key_object(key: Key) -> dict[str, object]:
    """Return a key with owners and attributes."""
    shared = [] if key.key_class is KeyClass.PUBLIC else list(key.shared)
    return {
        "key-reference": key_view.reference(key),
        "key-info": {
            "key-owners": [{"username": key.owner, "key-coverage": "full"}],
            "shared-users": [{"username": name, "key-coverage": "full"} for name in shared],
            "key-quorum-values": {
                "manage-key-quorum-value": key.manage_quorum,
                "use-key-quorum-value": key.use_quorum,
            },
            "cluster-coverage": "full",
        },
        "attributes": _attributes(key),
    }


def brief(key: Key) -> dict[str, object]:
    """Return what lists show of a key."""
    return {"key-reference": key_view.reference(key), "attributes": {"label": key.label}}


def _attributes(key: Key) -> dict[str, object]:
    shown: dict[str, object] = {
        "key-type": key.spec.type,
        "label": key.label,
        "id": "0x" + key.id.hex(),
        "check-value": "0x" + key.check_value.hex(),
        "class": key.key_class,
    }
    shown |= {name: attribute_text(key, name) == "true" for name in _BOOLEANS}
    shown["key-length-bytes"] = length_bytes(key.spec)
    return shown | public_details(key.spec, key.public)
