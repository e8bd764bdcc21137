"""Operations: parameters noted at Init, input gathered, one request at the end.

An operation asks an HSM for nothing before it has all that the request needs. So an HSM that
fails in between loses nothing: what was gathered is the journal, and it is bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.wire.messages import PLAINTEXT_BYTES_MAX, Request

JOURNAL_BYTES_MAX: Final = PLAINTEXT_BYTES_MAX


@dataclass(slots=True, eq=False)
class Use:
    """A use of a key that is one request: any HSM can answer it, or the one where the key lives.

    Attributes:
        ref: the key.
        build: makes the request, of a ticket and the place in the ledger that was heard of.
        special: as in `cryptoki_error`.
        size: how much of the reply's data is the result; None for all of it.
        then: makes the call's answer of the result.
    """

    ref: int
    build: Callable[[bytes, int], Request]
    special: Mapping[str, CKR]
    size: int | None = None
    then: Callable[[bytes], bytes] = bytes

    def answer(self, data: bytes) -> bytes:
        """Return the call's answer."""
        return self.then(data[: self.size])


class Operation(ABC):
    """One active operation of a session.

    Its input comes by `update`, or at once to the `finish` or `check` of its kind.
    """

    waits: ClassVar[bool] = True
    """Whether `update` or `finish` may have to wait for an HSM."""

    @abstractmethod
    def needed(self, more: int) -> int:
        """Return how many bytes `finish` gives at most, after `more` further bytes of input."""

    def ready(self, more: int) -> int:  # noqa: ARG002  # for those who gather, nothing is
        """Return how many bytes `update` gives for `more` bytes of input."""
        return 0

    @abstractmethod
    def update(self, data: bytes) -> bytes:
        """Take input; return what is ready."""

    @abstractmethod
    def finish(self, data: bytes) -> bytes | Use:
        """Take the last input and return the rest of the result, or the use that gives it."""

    def check(self, data: bytes, shown: bytes) -> None:  # noqa: ARG002  # the others' signature
        """Compare a signature or MAC over all input; only operations that verify do."""
        raise CryptokiError(CKR.FUNCTION_NOT_SUPPORTED)


class Journal:
    """Input gathered for one request."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Take input; raise DATA_LEN_RANGE beyond what a request holds."""
        if len(self._data) + len(data) > JOURNAL_BYTES_MAX:
            raise CryptokiError(
                CKR.DATA_LEN_RANGE, f"at most {JOURNAL_BYTES_MAX} bytes in one operation"
            )
        self._data += data

    def __len__(self) -> int:
        return len(self._data)

    def whole(self, last: bytes) -> bytes:
        """Return all input."""
        if not self._data:
            if len(last) > JOURNAL_BYTES_MAX:
                raise CryptokiError(CKR.DATA_LEN_RANGE)
            return last
        self.add(last)
        return bytes(self._data)
