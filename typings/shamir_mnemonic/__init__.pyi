# What Cloister uses of shamir-mnemonic 0.3, which ships no types.
from collections.abc import Iterable, Sequence

class MnemonicError(Exception): ...

class Share:
    identifier: int
    index: int
    member_threshold: int
    value: bytes
    @classmethod
    def from_mnemonic(cls, mnemonic: str) -> Share: ...

def generate_mnemonics(
    group_threshold: int, groups: Sequence[tuple[int, int]], master_secret: bytes
) -> list[list[str]]: ...
def combine_mnemonics(mnemonics: Iterable[str]) -> bytes: ...
