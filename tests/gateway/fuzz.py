"""Mutated frames for the decoder: `python -m tests.gateway.fuzz 10000000 [SEED]`.

The seeds are one well-formed body of every call in every dialect. Whatever comes, decoding gives
values, MalformedError or CryptokiError; anything else ends the run with the body in hex.

`python -m tests.gateway.fuzz corpus` writes `corpus.txt`: seeds, and those mutants that took the
decoder a way (the set of its lines) that none before has taken. CI replays it, each with its
outcome. A body that ever ends a run is added to FOUND, and so to the corpus.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from orchestrator.gateway.cryptoki import CryptokiError
from orchestrator.gateway.rpc.calls import CALLS, decode, split
from orchestrator.model.errors import MalformedError
from tests.gateway import wire as w

CORPUS: Final = Path(__file__).with_name("corpus.txt")
CORPUS_RUN: Final = 5_000
FOUND: Final[tuple[tuple[int, bytes], ...]] = ()
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


def outcome(offered: int, body: bytes) -> str:
    """Decode a body; return what came of it."""
    try:
        decode(body, offered)
    except MalformedError:
        return "malformed"
    except CryptokiError as exc:
        return exc.rv.name
    except BaseException:
        sys.stderr.write(f"offered {offered}, body {body.hex()}\n")
        raise
    return "good"


def run(count: int, seed: int) -> int:
    """Decode mutants; return how many were taken for good."""
    return sum(outcome(*mutant) == "good" for mutant in mutants(count, seed))


def way(offered: int, body: bytes) -> frozenset[tuple[str, int]]:
    """Return the lines of the decoder that a body visits."""
    lines = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if "/gateway/rpc/" not in path:
            return None
        if event == "line":
            lines.add((path, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        outcome(offered, body)
    finally:
        sys.settrace(before)
    return frozenset(lines)


def corpus() -> Iterator[str]:
    """Yield the corpus: offered byte, outcome and body of each."""
    seen = set()
    chosen = [*seeds(), *FOUND]
    given = len(chosen)
    everything = [*chosen, *mutants(CORPUS_RUN, seed=7)]
    for number, (offered, body) in enumerate(everything):
        taken = (outcome(offered, body), way(offered, body))
        if number < given or taken not in seen:
            yield f"{offered} {taken[0]} {body.hex()}\n"
        seen.add(taken)


if __name__ == "__main__":
    if sys.argv[1] == "corpus":
        CORPUS.write_text("".join(corpus()))
    else:
        number = int(sys.argv[1])
        taken = run(number, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        sys.stdout.write(f"{number} bodies, {taken} decoded, all others refused\n")
