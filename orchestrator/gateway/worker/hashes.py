"""Hash functions under their many numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from orchestrator.gateway.cryptoki import CKM, CKR, CryptokiError
from orchestrator.gateway.worker.operation import Operation
from orchestrator.model.key_spec import HashFunction

BY_MECHANISM: Final[Mapping[int, HashFunction]] = {
    CKM.SHA_1: HashFunction.SHA1,
    CKM.SHA224: HashFunction.SHA224,
    CKM.SHA256: HashFunction.SHA256,
    CKM.SHA384: HashFunction.SHA384,
    CKM.SHA512: HashFunction.SHA512,
}
BY_MGF: Final[Mapping[int, HashFunction]] = {  # CKG_MGF1_*
    1: HashFunction.SHA1,
    2: HashFunction.SHA256,
    3: HashFunction.SHA384,
    4: HashFunction.SHA512,
    5: HashFunction.SHA224,
}


class Digest(Operation):
    """C_Digest*: no key, so no HSM."""

    waits = False

    def __init__(self, mechanism: int) -> None:
        if (hash_function := BY_MECHANISM.get(mechanism)) is None:
            raise CryptokiError(CKR.MECHANISM_INVALID)
        self._state = hashlib.new(hash_function)

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the digest's length."""
        return self._state.digest_size

    def update(self, data: bytes) -> bytes:
        """Take input."""
        self._state.update(data)
        return b""

    def finish(self, data: bytes) -> bytes:
        """Return the digest."""
        self._state.update(data)
        return self._state.digest()
