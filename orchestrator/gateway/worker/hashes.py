"""Hash functions under their many numbers, and DigestInfo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from orchestrator.gateway.cryptoki import CKM, CKR, CryptokiError
from orchestrator.gateway.worker.operation import Operation
from orchestrator.model.key_spec import DIGEST_BYTES, HashFunction

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
BY_LENGTH: Final = {size: hash_function for hash_function, size in DIGEST_BYTES.items()}
_DIGEST_INFO: Final = {  # RFC 8017 §9.2, note 1
    bytes.fromhex("3021300906052b0e03021a05000414"): HashFunction.SHA1,
    bytes.fromhex("302d300d06096086480165030402040500041c"): HashFunction.SHA224,
    bytes.fromhex("3031300d060960864801650304020105000420"): HashFunction.SHA256,
    bytes.fromhex("3041300d060960864801650304020205000430"): HashFunction.SHA384,
    bytes.fromhex("3051300d060960864801650304020305000440"): HashFunction.SHA512,
}


def parse_digest_info(data: bytes) -> tuple[HashFunction, bytes] | None:
    """Return hash function and digest of a DigestInfo; None for other bytes."""
    for size in (19, 15):
        hash_function = _DIGEST_INFO.get(data[:size])
        if hash_function is not None and len(data) == size + DIGEST_BYTES[hash_function]:
            return hash_function, data[size:]
    return None


class Digest(Operation):
    """C_Digest*: no key, so no HSM."""

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
