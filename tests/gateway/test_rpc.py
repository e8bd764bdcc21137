"""The decoder: round trips in all dialects, truncation, hostile lengths, mutated frames."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.cryptoki import CKA, CKR, CryptokiError
from orchestrator.gateway.rpc import frames, values
from orchestrator.gateway.rpc import mechanisms as mech
from orchestrator.gateway.rpc.attributes import (
    BYTE_TYPES,
    LIST_TYPES,
    MECHANISMS_TYPE,
    ULONG_TYPES,
    Attribute,
    length_of,
    pack_length,
    pack_value,
)
from orchestrator.gateway.rpc.calls import CALLS, decode, pack_error, split
from orchestrator.model.errors import MalformedError
from tests.gateway import fuzz
from tests.gateway import wire as w

OFFERED = st.sampled_from([0, 1, 2])
DATA = st.none() | st.binary(max_size=80)


def scalar(kind: int) -> st.SearchStrategy[Any]:
    if kind in BYTE_TYPES:
        return st.integers(0, 255)
    if kind in ULONG_TYPES:
        return st.integers(0, 2**64 - 1)
    if kind == MECHANISMS_TYPE:
        return st.lists(st.integers(0, 2**64 - 1), max_size=5)
    return st.binary(max_size=40)


PLAIN_KINDS = [int(a) for a in CKA if a not in LIST_TYPES and a not in {0x87}]
PAIRS = st.sampled_from(PLAIN_KINDS).flatmap(
    lambda kind: st.tuples(st.just(kind), st.none() | scalar(kind))
)
TEMPLATES = st.lists(PAIRS, max_size=6)
NESTED = st.builds(lambda a, b: [*a, (0x40000212, b)], TEMPLATES, TEMPLATES)


def typed(template: list[tuple[int, Any]]) -> tuple[Attribute, ...]:
    def value(kind: int, given_: Any) -> Any:
        if kind in LIST_TYPES:
            return typed(given_)
        return tuple(given_) if isinstance(given_, list) else given_

    return tuple(Attribute(kind, value(kind, given_)) for kind, given_ in template)


@st.composite
def values_of(draw: st.DrawFn, code: str, offered: int) -> tuple[bytes, Any]:
    """An encoded value and what it should decode to."""
    match code:
        case "y":
            byte = draw(st.integers(0, 255))
            return bytes([byte]), byte
        case "u":
            number = draw(st.integers(0, 2**64 - 1))
            return w.u64(number), number
        case "s" | "z":
            text = draw(st.binary(max_size=40))
            return w.counted(text), text
        case "ay":
            data = draw(DATA)
            return w.ay(data, offered), data
        case "fy" | "fu":
            room = draw(st.integers(0, 2**32 - 1))
            return w.u32(room), room
        case "aA":
            template = draw(TEMPLATES | NESTED)
            return w.attributes(template), typed(template)
        case "fA":
            plain = st.sampled_from(PLAIN_KINDS)
            asked = draw(st.lists(st.tuples(plain, st.integers(0, 2**32 - 1)), max_size=6))
            return w.rooms(asked), tuple(asked)
        case "M":
            number = draw(st.sampled_from(list(fuzz.PARAMETERS)))
            encoded = w.mechanism(offered, number, fuzz.PARAMETERS[number])
            return encoded, PARSED[number]
        case _:
            raise AssertionError(code)


PARSED = {
    0x1041: mech.Mechanism(0x1041),
    0xD: mech.Mechanism(0xD, mech.PssParameter(0x250, 2, 32)),
    0x9: mech.Mechanism(0x9, mech.OaepParameter(0x220, 1, 1, b"")),
    0x1050: mech.Mechanism(0x1050, mech.EcdhParameter(1, b"", b"\4" * 65)),
    0x1085: mech.Mechanism(0x1085, bytes(16)),
    0x1086: mech.Mechanism(0x1086, mech.CtrParameter(128, bytes(16))),
    0x1087: mech.Mechanism(0x1087, mech.GcmParameter(b"", 0, b"aad", 128)),
    0x1084: mech.Mechanism(0x1084, 8),
}


@given(st.data(), st.sampled_from(sorted(CALLS)), OFFERED)
def test_every_call_decodes_to_what_was_sent_and_to_nothing_when_cut(
    data: st.DataObject, number: int, offered: int
) -> None:
    call = CALLS[number]
    pairs = [data.draw(values_of(code, offered)) for code in split(call.request)]
    body = w.u32(number) + w.counted(call.request.encode()) + b"".join(p[0] for p in pairs)
    assert decode(body, offered) == (call, [p[1] for p in pairs])
    assert decode(body + b"surplus", offered)[1] == [p[1] for p in pairs]
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedError):
        decode(body[:cut], offered)


def test_the_worked_example_of_the_protocol_decodes() -> None:
    body = bytes.fromhex("0000002a00000003754d75000000000000000500001041ffffffff0000000000000009")
    call, given_ = decode(body, 0)
    assert (call.name, given_) == ("C_SignInit", [5, mech.Mechanism(0x1041), 9])
    assert pack_error(0xB3).hex() == "00000000000000017500000000000000b3"


def test_a_null_mechanism_ends_an_operation_in_every_dialect_that_has_one() -> None:
    head = w.u32(42) + w.counted(b"uMu") + w.u64(5)
    for offered in (1, 2):
        assert decode(head + w.NULL + w.u64(9), offered)[1] == [5, None, 9]
    assert decode(head + w.u32(0) + w.u64(9), 1)[1] == [5, None, 9]  # 0.25.0 to 0.25.2
    generate = decode(w.u32(59) + w.counted(b"uMaAaA") + w.u64(5) + w.mechanism(1, 0) + bytes(8), 1)
    assert generate[1] == [5, mech.Mechanism(0), (), ()]


def test_an_old_clients_null_pointer_is_followed_by_a_length() -> None:
    body = w.u32(18) + w.counted(b"uuay") + w.u64(5) + w.u64(1) + b"\0" + w.u32(12)
    assert decode(body, 0)[1] == [5, 1, None]


@pytest.mark.parametrize("offered", [0, 1, 2])
def test_unknown_calls_signatures_and_mechanisms_are_refused(offered: int) -> None:
    for body in (
        w.u32(0) + w.counted(b""),
        w.u32(90) + w.counted(b""),
        w.u32(42) + w.counted(b"uM"),
        w.u32(42) + w.NULL + b"uMu",
    ):
        with pytest.raises(MalformedError):
            decode(body, offered)
    with pytest.raises(CryptokiError) as caught:
        decode(w.u32(42) + w.counted(b"uMu") + w.u64(5) + w.u32(0x2109) + w.NULL, offered)
    assert caught.value.rv is CKR.MECHANISM_INVALID


def test_short_values_of_ulongs_and_flags_are_invalid() -> None:
    for kind, value in ((0x161, w.u64(1)), (0x108, b"\1")):
        body = w.u32(1) + w.u32(kind) + b"\1" + w.u32(4) + value
        with pytest.raises(CryptokiError) as caught:
            decode(w.u32(26) + w.counted(b"uaA") + w.u64(5) + body, 0)
        assert caught.value.rv is CKR.ATTRIBUTE_VALUE_INVALID


def test_templates_are_not_followed_without_end() -> None:
    nested = w.attributes([(1, 1)])
    for _ in range(3000):
        nested = w.u32(1) + w.u32(0x40000211) + b"\1" + w.u32(24) + nested
    with pytest.raises(MalformedError):
        decode(w.u32(26) + w.counted(b"uaA") + w.u64(5) + nested, 2)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["ay", "aA", "fA", "z", "list"]))
def test_no_length_makes_the_decoder_allocate(length: int, code: str) -> None:
    tails = {
        "ay": (38 + 1, "uay", b"\1" + w.u32(length)),
        "aA": (26, "uaA", w.u32(length)),
        "fA": (24, "uufA", w.u64(1) + w.u32(length)),
        "z": (9, "uayz", w.ay(b"") + w.u32(length)),
        "list": (26, "uaA", w.u32(1) + w.u32(0x40000600) + b"\1" + w.u32(8) + w.u32(length)),
    }
    number, signature, tail = tails[code]
    body = w.u32(number) + w.counted(signature.encode()) + w.u64(5) + tail
    tracemalloc.start()
    try:
        decode(body, 2)
    except MalformedError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100_000


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_frames_come_out_whole_however_they_are_split(
    bodies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(
        struct.pack("!III", 16 + i, 6, len(body)) + b"client" + body
        for i, body in enumerate(bodies)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer, found = frames.FrameBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        while (frame := buffer.frame()) is not None:
            found.append(frame)
    assert found == [(16 + i, body) for i, body in enumerate(bodies)]
    assert buffer.pending_bytes == 0


def test_a_frame_in_single_bytes_is_joined_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 MiB a byte at a time were 2 TiB of copies, were each piece joined to what is there."""
    body = bytes(range(256)) * 1024
    stream = struct.pack("!III", 16, 6, len(body)) + b"client" + body
    buffer, parsed = frames.FrameBuffer(), []

    class Counted:
        def unpack_from(self, data: bytes) -> tuple[int, ...]:
            parsed.append(len(data))
            return struct.unpack_from("!III", data)

    monkeypatch.setattr(frames, "HEADER", Counted())
    for at in range(len(stream) - 1):
        buffer.feed(stream[at : at + 1])
        assert buffer.frame() is None
    buffer.feed(stream[-1:])
    assert buffer.frame() == (16, body)
    assert parsed == [12, len(stream)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_frame_beyond_the_limits_is_refused_by_its_header(options: int, size: int) -> None:
    buffer = frames.FrameBuffer()
    buffer.feed(struct.pack("!III", 16, options, size))
    if options > frames.OPTION_BYTES_MAX or size > frames.FRAME_BYTES_MAX:
        with pytest.raises(MalformedError):
            buffer.frame()
    else:
        assert (buffer.frame() is None) == (options + size > 0)


def test_mutated_frames_are_decoded_or_refused() -> None:
    assert 0 < fuzz.run(20_000, seed=1) < 20_000


@given(st.sampled_from(PLAIN_KINDS).flatmap(lambda k: st.tuples(st.just(k), scalar(k))))
def test_attributes_are_answered_as_clients_read_them(pair: tuple[int, Any]) -> None:
    kind, value = pair
    if kind in BYTE_TYPES:
        value = bool(value)
    if isinstance(value, list):
        value = tuple(value)
    answer = w.Answer(w.u32(0) + w.counted(b"") + w.u32(1) + pack_value(kind, value) + w.u64(0))
    if kind not in w.BYTE | w.ULONG | {0x40000600} and kind in BYTE_TYPES | ULONG_TYPES:
        return  # the test's client knows fewer types
    read, rv = answer.attributes()
    expected = list(value) if isinstance(value, tuple) else value
    assert (read[kind], rv, answer.rest) == (expected, 0, b"")
    probe = w.Answer(
        w.u32(0) + w.counted(b"") + w.u32(1) + pack_length(kind, length_of(value)) + w.u64(0)
    )
    probe.attributes()
    assert probe.rest == b""


def test_strings_are_padded_and_cut_between_characters() -> None:
    assert values.pack_string("ab", 4) == w.counted(b"ab  ")
    assert values.pack_string("aéé", 4) == w.counted("aé ".encode())


def test_what_was_begun_before_is_decoded_to_values_of_its_own() -> None:
    body = CALLS[42].request_head + values.U64.pack(7) + struct.pack("!II", 0x1041, 0xFFFF_FFFF)
    body += values.U64.pack(9)
    for offered in (0, 1):
        _, first = decode(body, offered)
        expected = list(first)
        first[0] = None  # as a task does
        assert decode(body, offered)[1] == expected == [7, mech.Mechanism(0x1041), 9]
    with pytest.raises(MalformedError):
        decode(body[:-1], 1)


def test_the_corpus_is_decoded_or_refused_as_before() -> None:
    lines = [line.split(" ") for line in fuzz.CORPUS.read_text().splitlines()]
    decoded = [(int(offered), bytes.fromhex(body)) for offered, _, body in lines]
    assert {outcome for _, outcome, _ in lines} >= {"good", "malformed", "MECHANISM_INVALID"}
    assert set(decoded) >= {*fuzz.seeds(), *fuzz.FOUND}, "python -m tests.gateway.fuzz corpus"
    for (offered, body), (_, outcome, _) in zip(decoded, lines, strict=True):
        assert fuzz.outcome(offered, body) == outcome, body.hex()
