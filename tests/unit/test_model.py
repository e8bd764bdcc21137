"""Certificates, keys, names, digests and frames: rules without I/O."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.profiles import load_profiles
from orchestrator.model.errors import MalformedError, RefusedError, UsageError
from orchestrator.model.ids import check_id, new_id
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key, new_attributes
from orchestrator.model.profile import FirmwareProfile, ProfileError
from orchestrator.model.roles import Role, check_password, parse_user_name
from orchestrator.model.signatures import check_cluster_certificate
from orchestrator.model.state import (
    EndedLogin,
    Host,
    Put,
    State,
    StoredRow,
    Table,
    User,
    digest,
    row_number,
    user_row,
)
from orchestrator.wire.frames import FRAME_BYTES_MAX, HEADER, FrameReader, pack_frame, parse_header
from orchestrator.wire.messages import decode_reply, decode_request

NOW = datetime(2027, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
CA, CLUSTER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
PUBLIC = CLUSTER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    key: rsa.RSAPrivateKey = CLUSTER,
    signer: rsa.RSAPrivateKey = CA,
    *,
    subject: str = "cluster",
    issuer: str = "ca",
    ca: bool = False,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=1),
) -> bytes:
    """Return a certificate (PEM)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def root(**options: object) -> bytes:
    return certificate(CA, CA, subject="ca", ca=True, **options)  # type: ignore[arg-type]


# `openssl req -x509 -sha1`, since the library that we test with signs no SHA-1 any more.
def sha1_root() -> bytes:
    import subprocess  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    with TemporaryDirectory() as name:
        out = Path(name) / "ca.crt"
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha1", "-days", "9"]
        argv += ["-subj", "/CN=ca", "-keyout", f"{name}/ca.key", "-out", str(out)]
        subprocess.run(argv, check=True, capture_output=True)
        return out.read_bytes()


def test_a_good_certificate_passes() -> None:
    check_cluster_certificate(certificate(), root(), PUBLIC, NOW_MS)


@pytest.mark.parametrize(
    ("signed", "anchor", "code"),
    [
        (certificate(CA), root(), "certificate-key-mismatch"),
        (certificate(signer=CLUSTER), root(), "certificate-not-under-anchor"),
        (certificate(issuer="other"), root(), "certificate-not-under-anchor"),
        (certificate(end=NOW - timedelta(hours=1)), root(), "certificate-expired"),
        (certificate(start=NOW + timedelta(hours=1)), root(), "certificate-expired"),
        (certificate(), root(end=NOW - timedelta(hours=1)), "certificate-expired"),
        (certificate(WEAK), root(), "certificate-weak-key"),
        (certificate(), certificate(WEAK, WEAK, subject="ca", ca=True), "certificate-weak-key"),
        (certificate(), sha1_root(), "certificate-weak-hash"),
        (certificate(), certificate(CA, CA, subject="ca"), "anchor-not-ca"),
        (certificate(), certificate(CA, CLUSTER, subject="ca", ca=True), "anchor-not-ca"),
        (b"nonsense", root(), "certificate-unreadable"),
        (certificate(), b"-----BEGIN CERTIFICATE-----\n", "certificate-unreadable"),
    ],
)
def test_each_flaw_has_its_own_error(signed: bytes, anchor: bytes, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_cluster_certificate(signed, anchor, PUBLIC, NOW_MS)
    assert caught.value.code == code


# --- keys ---

AES = KeySpec(KeyType.AES, 256)


def test_defaults_are_cloudhsms() -> None:
    attributes, key_id = new_attributes(KeyClass.SECRET, AES, {"id": "0x0102"}, token=True)
    assert attributes == Attributes(sign=True, verify=True)
    assert key_id == b"\x01\x02"
    public, _ = new_attributes(KeyClass.PUBLIC, KeySpec(KeyType.RSA, 2048), {}, token=True)
    assert (public.private, public.sensitive, public.verify) == (False, False, False)


@pytest.mark.parametrize(
    "attribute", ["trusted", "local", "sensitive", "always-sensitive", "class"]
)
def test_what_is_computed_cannot_be_given(attribute: str) -> None:
    with pytest.raises(RefusedError) as caught:
        new_attributes(KeyClass.SECRET, AES, {attribute: "true"}, token=True)
    assert caught.value.code == "attribute-read-only"


def test_no_key_wraps_and_decrypts() -> None:
    with pytest.raises(RefusedError, match=r"wrap and decrypt"):
        new_attributes(KeyClass.SECRET, AES, {"wrap": "true", "decrypt": "true"}, token=True)


@pytest.mark.parametrize(
    "spec",
    [
        KeySpec(KeyType.AES, 129),
        KeySpec(KeyType.RSA, 1024, None, 65537),
        KeySpec(KeyType.RSA, 2050, None, 65537),
        KeySpec(KeyType.RSA, 2048, None, 3),
        KeySpec(KeyType.RSA, 2048, None, 65538),
        KeySpec(KeyType.EC, 256),
        KeySpec(KeyType.GENERIC_SECRET, 8 * 801),
        KeySpec(KeyType.AES, 256, Curve.P256),
    ],
)
def test_keys_that_no_hsm_makes(spec: KeySpec) -> None:
    with pytest.raises(RefusedError):
        spec.check()


def key(label: str = "L", ref: int = 5) -> Key:
    return Key(ref, KeyClass.SECRET, AES, label, b"", "cu", (), Attributes(), b"b", b"", b"abc")


def test_filters_select() -> None:
    assert KeyFilter.parse([]).matches(key())
    assert KeyFilter.parse(["key-reference=0x5"]).matches(key())
    assert KeyFilter.parse(["key-reference=5"]).matches(key())
    assert not KeyFilter.parse(["key-reference=0x6"]).matches(key())
    assert KeyFilter.parse(["attr.label=L", "attr.encrypt=FALSE"]).matches(key())
    assert not KeyFilter.parse(["attr.label=l"]).matches(key())
    assert KeyFilter.parse(["attr.check-value=0x616263"]).matches(key())


@pytest.mark.parametrize(
    "items",
    [["label=x"], ["attr.nonsense=1"], ["attr.label"], ["attr.label=a", "attr.label=b"],
     ["key-reference=zz"], ["key-reference=0"], ["key-reference=1", "attr.label=x"]],
)  # fmt: skip
def test_bad_filters_are_usage_errors(items: list[str]) -> None:
    with pytest.raises(UsageError):
        KeyFilter.parse(items)


@given(st.text(max_size=40))
def test_any_label_can_be_filtered_for(label: str) -> None:
    assert KeyFilter.parse([f"attr.label={label}"]).matches(key(label))


@given(st.lists(st.text(max_size=30), max_size=4))
def test_the_filter_grammar_never_breaks(items: list[str]) -> None:
    with suppress(UsageError):
        KeyFilter.parse(items)


# --- names, ids, profiles ---


def test_names_and_passwords() -> None:
    assert parse_user_name("Alice_1") == "alice_1"
    for bad in ("", "a" * 32, "a:b", "ä", "a b", "a\n"):
        with pytest.raises(UsageError):
            parse_user_name(bad)
    assert check_password("ü".encode() * 8)
    for short in (b"1234567", b"x" * 33, b"\xff" * 8):
        with pytest.raises(RefusedError):
            check_password(short)


def test_ids_are_cloudhsms() -> None:
    made = new_id("hsm", lambda count: bytes(range(count)))
    assert check_id("hsm", made) == made
    for bad in ("hsm-short", "cluster-aaaaaaaaaaa", "hsm-../../etc", made + "\n"):
        with pytest.raises(UsageError):
            check_id("hsm", bad)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_users", "max_user", "did you mean max_users"),
        ("max_keys = 16666", "", "max_keys"),
        ('backend = "softhsm2"', 'backend = "paper"', "choose from"),
        ('name = "', "name = ", "not TOML"),
    ],
)
def test_profile_errors_name_file_key_and_remedy(old: str, new: str, said: str) -> None:
    from orchestrator.control.profiles import profile_path  # noqa: PLC0415

    text = profile_path("hsm2m.medium").read_text()
    assert old in text
    with pytest.raises(ProfileError, match=said) as caught:
        FirmwareProfile.parse(text.replace(old, new, 1), "some.toml")
    assert "some.toml" in str(caught.value)


def test_the_shipped_profiles() -> None:
    profiles = load_profiles()
    assert set(profiles) == {"hsm1.medium", "hsm2m.medium"}
    assert profiles["hsm1.medium"].deprecated
    assert not profiles["hsm2m.medium"].deprecated


# --- digests ---

PUTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 3)), max_size=30)


@given(PUTS)
def test_the_kept_digest_is_the_counted_one(changes: list[tuple[str, int | None]]) -> None:
    state = State()
    for name, number in changes:
        row = None if number is None else EndedLogin(number)
        state.advance([Put(Table.LOGINS, name, row)], seq=state.seq + 1, head=bytes(32), at=0)
    again = State.build(state.rows(), seq=state.seq, head=state.head, at=0)[0]
    assert again.digest() == state.digest()
    assert again.tables == state.tables


def test_tables_names_and_values_all_count() -> None:
    digests = set()
    for table, name, row in (
        (Table.LOGINS, "a", EndedLogin(1)),
        (Table.LOGINS, "b", EndedLogin(1)),
        (Table.LOGINS, "a", EndedLogin(2)),
        (Table.HOSTS, "a", Host("a", b"")),
    ):
        state = State()
        state.advance([Put(table, name, row)], seq=1, head=bytes(32), at=0)
        digests.add(state.digest())
    assert len(digests) == 4


# --- frames and messages ---


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=5000), st.integers(1, 700))
def test_frames_survive_any_chopping(number: int, body: bytes, size: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        frame = pack_frame(number, body)
        for start in range(0, len(frame), size):
            near.sendall(frame[start : start + size])
        near.shutdown(socket.SHUT_WR)
        reader = FrameReader(far)
        assert reader.read() == (number, body)
        assert reader.read() is None


@given(st.integers(1, 40))
def test_a_cut_frame_is_an_error(length: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(pack_frame(1, bytes(30))[:length])
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(MalformedError):
            FrameReader(far).read()


def test_hostile_headers_are_refused_before_anything_is_allocated() -> None:
    layout = HEADER
    for bad in (layout.pack(1, 0, FRAME_BYTES_MAX + 1, 1), layout.pack(2, 0, 1, 1),
                layout.pack(1, 7, 1, 1)):  # fmt: skip
        with pytest.raises(MalformedError):
            parse_header(bad)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoders(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with suppress(MalformedError):
            decode(data)


def test_roles_are_cloudhsms_names() -> None:
    assert Role("internal(APPLIANCE_USER)") is Role.APPLIANCE_USER


def test_rows_of_earlier_software_are_read_with_defaults() -> None:
    user = User("ana", Role.ADMIN, "hash", 1)
    short = msgspec.msgpack.encode(["ana", "admin", "hash", 1])
    rows = [StoredRow(Table.USERS, user_row(user.role, user.name), short)]
    state, counted = State.build(rows, seq=1, head=bytes(32), at=0)
    assert state.user(Role.ADMIN, "ana") == user
    assert counted == digest(1, bytes(32), row_number(Table.USERS, "admin/ana", short))
    put = Put(Table.USERS, "admin/ana", user)
    grown = State()
    grown.advance([put], seq=1, head=bytes(32), at=0)
    assert state.digest() == grown.digest() != counted
    state.advance([Put(Table.USERS, "admin/ana", None)], seq=1, head=bytes(32), at=0)
    assert state.total == 0
