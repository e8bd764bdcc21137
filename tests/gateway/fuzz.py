"""Mutated frames for the decoder: `python -m tests.gateway.fuzz 10000000 [SEED]`.

The seeds are one well-formed body of every call in every dialect. Whatever comes, decoding gives
values, MalformedError or CryptokiError; anything else ends the run with the body in hex.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

from orchestrator.gateway.cryptoki import CryptokiError
from orchestrator.gateway.rpc.calls import CALLS, decode, split
from orchestrator.model.errors import MalformedError
from tests.gateway import wire as w

_EXTREMES = [bytes(4), w.NULL, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\xff" * 8]
_TEMPLATE = [(0, 3), (1, 1), (3, b"label"), (0x40000600, [1, 0x1041]), (0x40000211, [(0x108, 1)])]
PARAMETERS = {
    0x1041: None,
    0xD: w.u64(0x250) + w.u64(2) + w.u64(32),
    0x9: w.u64(0x220) + w.u64(1) + w.u64(1) + w.counted(b""),
    0x1050: w.u64(1) + w.counted(None) + w.counted(b"\4" * 65),
    0x1085: w.counted(bytes(16)),
    0x1086: w.u64(128) + w.counted(bytes(16)),
    0x1087: w.counted(b"") + w.u64(0) + w.counted(b"aad") + w.u64(128),
    0x1084: w.u64(8),
}


def sample(code: str, offered: int, number: int = 0xD) -> bytes:
    """Return one value of a signature's code."""
    match code:
        case "y":
            return b"\1"
        case "u":
            return w.u64(7)
        case "s" | "z":
            return w.counted(b"label")
        case "ay":
            return w.ay(b"some bytes", offered)
        case "fy" | "fu":
            return w.u32(64)
        case "aA":
            return w.attributes(_TEMPLATE)
        case "fA":
            return w.rooms([(3, 0), (0x102, 64)])
        case "M":
            return w.mechanism(offered, number, PARAMETERS[number])
        case _:
            raise AssertionError(code)


def seeds() -> list[tuple[int, bytes]]:
    """Return (offered byte, body) of every call in every dialect, and of every parameter."""
    found = []
    for offered in (0, 1, 2):
        for call in CALLS.values():
            numbers = PARAMETERS if "M" in call.request else (0xD,)
            for number in numbers:
                values = b"".join(sample(c, offered, number) for c in split(call.request))
                found.append((offered, w.u32(call.id) + w.counted(call.request.encode()) + values))
    return found


def mutate(body: bytes, rng: random.Random) -> bytes:
    """Return a body with some bytes changed, cut, put in or repeated."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            case 2:
                extreme = rng.choice(_EXTREMES)
                data[at : at + len(extreme)] = extreme
            case 3 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 4:
                data[at:at] = data[: rng.randint(0, 64)]
            case _:
                del data[at : at + rng.randint(1, 9)]
    return bytes(data)


def mutants(count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield so many mutated bodies, the same ones for the same seed."""
    rng, known = random.Random(seed), seeds()  # noqa: S311  # to be repeatable
    for _ in range(count):
        offered, body = rng.choice(known)
        yield offered, mutate(body, rng)


def run(count: int, seed: int) -> int:
    """Decode mutants; return how many were taken for good."""
    good = 0
    for offered, body in mutants(count, seed):
        try:
            decode(body, offered)
            good += 1
        except (MalformedError, CryptokiError):
            continue
        except BaseException:
            sys.stderr.write(f"offered {offered}, body {body.hex()}\n")
            raise
    return good


if __name__ == "__main__":
    number = int(sys.argv[1])
    taken = run(number, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    sys.stdout.write(f"{number} bodies, {taken} decoded, all others refused\n")
