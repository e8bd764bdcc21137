"""What a customer may hand in as certificates: each wrong one is refused by an HSM, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model.errors import RefusedError, RemoteError
from orchestrator.model.signatures import check_cluster_certificate
from orchestrator.model.state import Phase
from orchestrator.wire import messages as m
from tests.hostile.wire import examples
from tests.stateful.harness import CLUSTER, LocalCluster

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
CA, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EDWARDS = ed25519.Ed25519PrivateKey.generate()
SMALL = ec.generate_private_key(ec.SECP224R1())
NOW = datetime(2027, 6, 1, tzinfo=UTC)


class Born(LocalCluster):
    """A cluster whose only HSM waits for its certificate."""

    def _bootstrap(self) -> None:
        self.clock.ms = int(NOW.timestamp() * 1000)
        first, roster = self.machines[0], self.controller.roster
        made = roster.call(first.id, m.Prepare(b"", "create", m.CreateCluster(CLUSTER, "FIPS"), 0))
        assert isinstance(made, m.Prepared)
        self.ledger.commit(made.entry, is_base=True)
        self.controller.offer(first.id, [made.entry], 0)

    def initialize(self, certificate: bytes, anchor: bytes) -> None:
        self.controller.change(lambda _: m.InitializeCluster(certificate, anchor))

    @property
    def phase(self) -> Phase:
        hsm = self.machines[0].hsm
        assert hsm is not None
        return hsm.core.state.meta.phase


@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Born]:
    made = Born(tmp_path_factory.mktemp("born"))
    yield made
    made.close()


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def sign(
    public: object,
    signer: Private,
    *,
    subject: str = "cluster",
    issuer: str = "ca",
    ca: bool | None = None,
    days: tuple[int, int] = (-1, 1),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)  # type: ignore[arg-type]  # one of those that certificates hold
        .serial_number(7)
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm)


def root(key: Private = CA, *, ca: bool | None = True, days: tuple[int, int] = (-1, 1)) -> bytes:
    return pem(sign(key.public_key(), key, subject="ca", ca=ca, days=days))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def private(key: Private) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def csr() -> bytes:
    made = (
        x509.CertificateSigningRequestBuilder().subject_name(name("x")).sign(OTHER, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


BEGIN, END = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\n",
    "text": b"see attachment",
    "zeros": bytes(2000),
    "a PEM header alone": BEGIN,
    "an empty PEM block": BEGIN + END,
    "PEM of no base64": BEGIN + b"!!!!\n" + END,
    "PEM of other DER": BEGIN + b"MAMCAQE=\n" + END,
    "PEM cut": root()[:300],
    "PEM without its end": root().replace(END, b""),
    "a private key": private(CA),
    "a request": csr(),
    "a PKCS #7 header": b"-----BEGIN PKCS7-----\nMAMCAQE=\n-----END PKCS7-----\n",
    "a megabyte of PEM": BEGIN + b"A" * (1 << 20) + b"\n" + END,
    "a megabyte of certificates": root() * 900,
    "a megabyte": bytes(1 << 20),
    "DER cut": x509.load_pem_x509_certificate(root()).public_bytes(Encoding.DER)[:-1],
    "DER and more": x509.load_pem_x509_certificate(root()).public_bytes(Encoding.DER) + b"\0",
    "UTF-16": root().decode().encode("utf-16"),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("where", ["certificate", "anchor"])
def test_what_is_no_certificate(born: Born, content: bytes, where: str) -> None:
    good, anchor = pem(leaf(born)), root()
    given_ = (content, anchor) if where == "certificate" else (good, content)
    assert refused(born, *given_) == "certificate-unreadable"


def leaf(born: Born, signer: Private = CA, **options: object) -> x509.Certificate:
    return sign(_public(born), signer, **options)  # type: ignore[arg-type]  # as given


@cache
def _public(born: Born) -> object:
    hsm = born.machines[0].hsm
    assert hsm is not None
    return load_der_public_key(hsm.core.state.meta.cluster_public)


def refused(born: Born, certificate: bytes, anchor: bytes) -> str:
    head = born.ledger.head()
    with pytest.raises(RemoteError) as caught:
        born.initialize(certificate, anchor)
    assert caught.value.exit_status == 1
    assert len(str(caught.value)) < 300
    assert born.phase is Phase.UNINITIALIZED
    assert born.ledger.head() == head
    return caught.value.code


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda b: (pem(sign(OTHER.public_key(), CA)), root()), "key-mismatch"),
        (lambda b: (root(), root()), "key-mismatch"),
        (lambda b: (pem(leaf(b)), root(OTHER)), "not-under-anchor"),
        (lambda b: (pem(leaf(b, OTHER)), root()), "not-under-anchor"),
        (lambda b: (pem(leaf(b, issuer="somebody")), root()), "not-under-anchor"),
        (lambda b: (pem(leaf(b, days=(-2, -1))), root()), "expired"),
        (lambda b: (pem(leaf(b, days=(1, 2))), root()), "expired"),
        (lambda b: (pem(leaf(b)), root(days=(-2, -1))), "expired"),
        (lambda b: (pem(leaf(b)), root(days=(1, 2))), "expired"),
        (lambda b: (pem(leaf(b)), root(ca=False)), "anchor-not-ca"),
        (lambda b: (pem(leaf(b)), root(ca=None)), "anchor-not-ca"),
        (lambda b: (pem(leaf(b)), pem(leaf(b))), "anchor-not-ca"),
        (lambda b: (pem(leaf(b, EDWARDS)), root(EDWARDS)), "weak-key"),
        (lambda b: (pem(leaf(b, SMALL)), root(SMALL)), "weak-key"),
        # Of several certificates in a file the first one is meant.
        (lambda b: (root() + pem(leaf(b)), root()), "key-mismatch"),
        (lambda b: (pem(leaf(b)), root(OTHER) + root()), "not-under-anchor"),
    ],
)
def test_each_flaw_is_named(
    born: Born, build: Callable[[Born], tuple[bytes, bytes]], code: str
) -> None:
    assert refused(born, *build(born)).removeprefix("certificate-") == code


@settings(max_examples=examples(250), deadline=None)
@given(data=st.data())
def test_mutated_certificates_are_refused_or_read(born: Born, data: st.DataObject) -> None:
    good, anchor = leaf(born), x509.load_pem_x509_certificate(root())
    both = [good.public_bytes(Encoding.DER), anchor.public_bytes(Encoding.DER)]
    which = data.draw(st.integers(0, 1))
    content = bytearray(both[which])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if bytes(content) == both[which]:
        return
    both[which] = bytes(content)
    public = load_public(born)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about what it will refuse one day
        with pytest.raises(RefusedError) as caught:
            check_cluster_certificate(both[0], both[1], public, int(NOW.timestamp() * 1000))
    assert caught.value.code.startswith(("certificate-", "anchor-"))


def load_public(born: Born) -> bytes:
    key = leaf(born).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_the_good_ones_are_taken_after_all_that(tmp_path_factory: pytest.TempPathFactory) -> None:
    born = Born(tmp_path_factory.mktemp("good"))
    try:
        assert refused(born, b"", b"") == "certificate-unreadable"
        der = x509.load_pem_x509_certificate(root()).public_bytes(Encoding.DER)
        born.initialize(b"# a comment\n" + pem(leaf(born)) + root(), der)
        assert born.phase is Phase.INITIALIZED
        with pytest.raises(RemoteError) as caught:
            born.initialize(pem(leaf(born)), root())
        assert caught.value.code == "not-uninitialized"
    finally:
        born.close()
