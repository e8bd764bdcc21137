"""Approvers' keys and signatures: what ssh-keygen makes, security keys, and every edit of them."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.errors import MalformedError, RefusedError, TamperedError
from orchestrator.model.ssh_signature import check_public_key, check_signature, parse_public_key
from tests.unit.approvers import approver

DIGEST = hashlib.sha256(b"token").digest()
NAMESPACE = "cloister-quorum"


def ssh_keygen(directory: Path, kind: str, bits: str = "") -> Path:
    path = directory / f"{kind}{bits}"
    size = ["-b", bits] if bits else []
    argv = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True, timeout=30)
    return path


def ssh_sign(key: Path, message: bytes, namespace: str = NAMESPACE, *options: str) -> bytes:
    argv = ["ssh-keygen", "-Y", "sign", *options, "-n", namespace, "-f", str(key)]
    return subprocess.run(argv, check=True, input=message, capture_output=True, timeout=30).stdout


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", ""), ("ecdsa", "256"), ("rsa", "2048")])
def test_what_ssh_keygen_signs(tmp_path: Path, kind: str, bits: str) -> None:
    key = ssh_keygen(tmp_path, kind, bits)
    public = parse_public_key(Path(f"{key}.pub").read_bytes())
    armored = ssh_sign(key, DIGEST)
    for signature in (armored, ssh_sign(key, DIGEST, NAMESPACE, "-O", "hashalg=sha256")):
        check_signature(public, DIGEST, signature, NAMESPACE, "it")
    raw = base64.b64decode(b"".join(armored.strip().splitlines()[1:-1]))
    check_signature(public, DIGEST, raw, NAMESPACE, "it")
    for digest, signature, namespace in (
        (bytes(32), raw, NAMESPACE),
        (DIGEST, raw, "cloister-mfa"),
        (DIGEST, ssh_sign(key, DIGEST, "file"), NAMESPACE),
        (DIGEST, raw[:-1], NAMESPACE),
        (DIGEST, raw + b"x", NAMESPACE),
        (DIGEST, armored.replace(b"-----END", b"-----"), NAMESPACE),
        (DIGEST, b"SSHSIG" + bytes(5000), NAMESPACE),
    ):
        with pytest.raises(TamperedError):
            check_signature(public, digest, signature, namespace, "it")


def test_another_persons_signature_is_refused(tmp_path: Path) -> None:
    mine, theirs = (ssh_keygen(d, "ed25519") for d in _two(tmp_path))
    public = parse_public_key(Path(f"{mine}.pub").read_bytes())
    with pytest.raises(TamperedError, match="another key"):
        check_signature(public, DIGEST, ssh_sign(theirs, DIGEST), NAMESPACE, "it")
    rsa = approver("ana").public
    with pytest.raises(TamperedError):
        check_signature(rsa, DIGEST, ssh_sign(theirs, DIGEST), NAMESPACE, "it")
    with pytest.raises(TamperedError, match="ssh-keygen -Y sign"):
        check_signature(public, DIGEST, approver("ana").sign(DIGEST), NAMESPACE, "it")


def _two(directory: Path) -> list[Path]:
    made = [directory / "a", directory / "b"]
    for path in made:
        path.mkdir()
    return made


def test_one_rsa_key_has_one_form_and_signs_both_ways(tmp_path: Path) -> None:
    key = ssh_keygen(tmp_path, "rsa", "2048")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "", "-m", "PEM", "-f", str(key)],
                   check=True, timeout=30, capture_output=True)  # fmt: skip
    pem = subprocess.run(
        ["openssl", "rsa", "-in", str(key), "-pubout"], check=True, timeout=30, capture_output=True
    ).stdout
    public = parse_public_key(pem)
    assert public == parse_public_key(Path(f"{key}.pub").read_bytes())
    (tmp_path / "digest").write_bytes(DIGEST)
    argv = ["openssl", "pkeyutl", "-sign", "-inkey", str(key), "-in", str(tmp_path / "digest"),
            "-pkeyopt", "digest:sha256"]  # fmt: skip
    signature = subprocess.run(argv, check=True, timeout=30, capture_output=True).stdout
    check_signature(public, DIGEST, signature, NAMESPACE, "it")
    check_signature(public, DIGEST, ssh_sign(key, DIGEST), NAMESPACE, "it")


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class FakeSecurityKey:
    """A fake: FIDO2 hardware is out of reach. Signs as PROTOCOL.u2f says a security key does."""

    def __init__(self, kind: str) -> None:
        self.application, self.kind = b"ssh:", kind
        if kind == "sk-ssh-ed25519@openssh.com":
            self._ed = ed25519.Ed25519PrivateKey.generate()
            self.point = self._ed.public_key().public_bytes_raw()
            parts = [kind.encode(), self.point, self.application]
        else:
            self._ec = ec.generate_private_key(ec.SECP256R1())
            self.point = self._ec.public_key().public_bytes(
                Encoding.X962, PublicFormat.UncompressedPoint
            )
            parts = [kind.encode(), b"nistp256", self.point, self.application]
        self.blob = b"".join(map(string, parts))
        self.line = f"{kind} {base64.b64encode(self.blob).decode()} me@host".encode()

    def sign(self, message: bytes, flags: int = 1, namespace: str = NAMESPACE) -> bytes:
        hashed = hashlib.sha512(message).digest()
        signed = b"SSHSIG" + b"".join(map(string, (namespace.encode(), b"", b"sha512", hashed)))
        tail = bytes([flags]) + (7).to_bytes(4, "big")
        data = hashlib.sha256(self.application).digest() + tail + hashlib.sha256(signed).digest()
        if self.kind.startswith("sk-ssh"):
            value = self._ed.sign(data)
        else:
            numbers = utils.decode_dss_signature(self._ec.sign(data, ec.ECDSA(hashes.SHA256())))
            value = b"".join(string(b"\0" + n.to_bytes(32, "big")) for n in numbers)
        signature = string(self.kind.encode()) + string(value) + tail
        return (
            b"SSHSIG"
            + (1).to_bytes(4, "big")
            + b"".join(map(string, (self.blob, namespace.encode(), b"", b"sha512", signature)))
        )


@pytest.mark.parametrize(
    "kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]
)
def test_a_security_key_counts_when_it_was_touched(kind: str) -> None:
    key = FakeSecurityKey(kind)
    public = parse_public_key(key.line)
    assert public == key.blob
    check_signature(public, DIGEST, key.sign(DIGEST), NAMESPACE, "it")
    check_signature(public, DIGEST, key.sign(DIGEST, flags=5), NAMESPACE, "it")
    for untouched in (0, 4):
        with pytest.raises(TamperedError, match="touched"):
            check_signature(public, DIGEST, key.sign(DIGEST, flags=untouched), NAMESPACE, "it")


def test_a_key_pair_is_the_same_person_in_every_form() -> None:
    plain = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    blob = string(b"ssh-ed25519") + string(plain)
    on_device = string(b"sk-ssh-ed25519@openssh.com") + string(plain) + string(b"ssh:")
    assert check_public_key(blob) == check_public_key(on_device)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ssh-ed25519",
        b"ssh-ed25519 !!!!",
        b"ssh-ed25519 " + base64.b64encode(string(b"ssh-ed25519") + string(bytes(31))),
        b"ssh-dss " + base64.b64encode(string(b"ssh-dss") + string(bytes(31))),
        b"ecdsa-sha2-nistp384 " + base64.b64encode(
            string(b"ecdsa-sha2-nistp384") + string(b"nistp384") + string(bytes(97))
        ),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN" + bytes(5000),
    ],
)  # fmt: skip
def test_what_is_no_key_of_an_approver(text: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_public_key(text)
    assert caught.value.code == "public-key"


def test_short_rsa_keys_are_refused(tmp_path: Path) -> None:
    key = ssh_keygen(tmp_path, "rsa", "1024")
    with pytest.raises(RefusedError):
        parse_public_key(Path(f"{key}.pub").read_bytes())


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), junk=st.binary(max_size=200))
def test_no_edit_of_a_signature_or_key_passes(place: int, flip: int, junk: bytes) -> None:
    key = _KEY
    signature = bytearray(_SIGNATURE)
    signature[place % len(signature)] ^= flip
    for edited in (bytes(signature), b"SSHSIG" + junk, junk):
        with pytest.raises(TamperedError):
            check_signature(key.blob, DIGEST, edited, NAMESPACE, "it")
    blob = bytearray(key.blob)
    blob[place % len(blob)] ^= flip
    for public in (bytes(blob), junk):
        try:
            check_public_key(public)
        except MalformedError:
            continue
        with pytest.raises(TamperedError):
            check_signature(public, DIGEST, bytes(_SIGNATURE), NAMESPACE, "it")


_KEY = FakeSecurityKey("sk-ssh-ed25519@openssh.com")
_SIGNATURE = _KEY.sign(DIGEST)
