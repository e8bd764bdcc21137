"""Debian 13's client sends what Debian 12's cannot: AES beyond ECB, and ECDH.

Its BIND signs a zone by OpenSSL's provider for PKCS#11. (Debian 12's BIND is built without engines,
so it has no way to a token.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.address import TokenAddress
from tests.interop.debian13 import PROVIDER, Debian13

pytestmark = [
    *(pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.trixie, pytest.mark.engine),
    pytest.mark.timeout(240),
]
IV = "000102030405060708090a0b0c0d0e0f"


def sealing(token: TokenAddress, mechanism: str) -> tuple[str, ...]:
    """A mechanism with its parameters; for GCM the HSMs draw the IV and put it in front."""
    if mechanism != "AES-GCM":
        return "-m", mechanism, "--iv", IV
    iv = ("--iv", IV[:24]) if token.source == "stock" else ()
    return "-m", mechanism, *iv, "--aad", "a0a1", "--tag-bits-len", "128"


ZONE = """$TTL 300
@ IN SOA ns.example. admin.example. 1 3600 600 86400 300
@ IN NS ns.example.
ns IN A 192.0.2.1
www IN AAAA 2001:db8::1
"""


def make_secret(token: TokenAddress, label: str, *more: str, kind: str = "AES:32") -> None:
    words = ("--keygen", "--key-type", kind, "--sensitive", "--label", label)
    token.pkcs11_tool(*words, "--id", label.encode().hex(), *more)


@pytest.mark.parametrize(
    ("mechanism", "size"),
    [
        *(("AES-CBC", 16), ("AES-CBC", 100_000), ("AES-CBC-PAD", 16), ("AES-CBC-PAD", 100_000)),
        *(("AES-GCM", 16), ("AES-GCM", 900)),  # what the tool's buffer holds: it comes in one piece
    ],
)
def test_aes_gives_back_what_went_in(token13: TokenAddress, mechanism: str, size: int) -> None:
    make_secret(token13, "box", "--usage-decrypt")
    plain, sealed, opened = (token13.work / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(bytes(index % 251 for index in range(size)))
    words = (*sealing(token13, mechanism), "--id", b"box".hex())
    token13.pkcs11_tool("--encrypt", *words, "-i", plain, "-o", sealed)
    drawn = 0 if token13.source == "stock" else 12
    added = {"AES-CBC": 0, "AES-CBC-PAD": 16 - size % 16, "AES-GCM": drawn + 16}[mechanism]
    assert len(sealed.read_bytes()) == size + added
    assert plain.read_bytes()[:16] not in sealed.read_bytes()
    token13.pkcs11_tool("--decrypt", *words, "-i", sealed, "-o", opened)
    assert opened.read_bytes() == plain.read_bytes()
    token13.delete("box", "secrkey")


def test_a_changed_byte_is_refused_by_gcm(token13: TokenAddress) -> None:
    make_secret(token13, "box", "--usage-decrypt")
    plain, sealed = token13.work / "plain", token13.work / "sealed"
    plain.write_bytes(bytes(64))
    words = (*sealing(token13, "AES-GCM"), "--id", b"box".hex())
    token13.pkcs11_tool("--encrypt", *words, "-i", plain, "-o", sealed)
    changed = bytearray(sealed.read_bytes())
    changed[5] ^= 1
    sealed.write_bytes(changed)
    done = token13.attempt(*token13.pkcs11_words, "--decrypt", *words, "-i", sealed, "-o", "never")
    assert done.returncode != 0
    assert not (token13.work / "never").exists() or not (token13.work / "never").read_bytes()
    token13.delete("box", "secrkey")


def test_cmac(token13: TokenAddress) -> None:
    make_secret(token13, "macs", "--usage-sign")
    text = token13.work / "plain"
    made = []
    for content in (b"one", b"one", b"two"):
        text.write_bytes(content)
        words = ("-m", "AES-CMAC", "--id", b"macs".hex(), "-i", str(text))
        token13.pkcs11_tool("--sign", *words, "-o", token13.work / "mac")
        made.append((token13.work / "mac").read_bytes())
        token13.pkcs11_tool("--verify", *words, "--signature-file", token13.work / "mac")
    assert [len(mac) for mac in made] == [16] * 3
    assert made[0] == made[1] != made[2]
    token13.delete("macs", "secrkey")


@pytest.mark.cc
def test_ecdh_agrees_with_openssl(token13: TokenAddress, debian: Debian13) -> None:
    """The secret never leaves the token: it is compared by what it encrypts."""
    program = token13.work / "derive"
    source = Path(__file__).with_name("programs") / "derive.c"
    token13.run("cc", "-I/usr/include/p11-kit-1", "-o", program, source)
    token13.make_pair("agree", "EC:prime256v1", "derive")
    words = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "peer.key")
    token13.run("openssl", *words)
    shown = token13.run("openssl", "pkey", "-in", "peer.key", "-pubout", "-outform", "DER")
    peer = shown[-65:].hex()  # the point ends a SubjectPublicKeyInfo
    (loader, *libraries) = debian.program("none")[:-1]
    client = debian.library("pkcs11/p11-kit-client.so")
    made = token13.run(loader, *libraries, program, client, "agree", peer)
    public = token13.public_key("agree")
    theirs = token13.run("openssl", "pkeyutl", "-derive", "-inkey", "peer.key", "-peerkey", public)
    cipher = ("enc", "-aes-256-ecb", "-nopad", "-K", theirs.hex())
    assert made.decode() == token13.run("openssl", *cipher, stdin=bytes(16)).hex()
    token13.delete("agree")


@pytest.mark.gateway_only
def test_a_secret_is_not_derived_to_be_read(token13: TokenAddress) -> None:
    """The tool asks for a key that it can read; a raw token gives it."""
    token13.make_pair("agree", "EC:prime256v1", "derive")
    words = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "peer.key")
    token13.run("openssl", *words)
    pkey = ("pkey", "-in", "peer.key", "-pubout", "-outform", "DER", "-out", "peer.der")
    token13.run("openssl", *pkey)
    derive = ("--derive", "-m", "ECDH1-DERIVE", "--id", b"agree".hex(), "-i", "peer.der")
    done = token13.attempt(*token13.pkcs11_words, *derive, "--label", "derived", "-o", "derived")
    assert done.returncode != 0
    assert b"CKR_TEMPLATE_INCONSISTENT" in done.stderr
    token13.delete("agree")


def test_aes_wraps_no_key_by_cbc(token13: TokenAddress) -> None:
    """A raw token does, and tells keys to who may flip bits. AES key wrap is sent by no client."""
    make_secret(token13, "wraps", "--usage-wrap")
    make_secret(token13, "travels", "--extractable", "--usage-decrypt")
    ids = ("--id", b"wraps".hex(), "--application-id", b"travels".hex())
    for more in (("AES-CBC", "--iv", IV), ("AES-CBC-PAD", "--iv", IV), ("AES-KEY-WRAP",)):
        if token13.source == "stock" and more[0] == "AES-CBC":
            continue
        done = token13.attempt(*token13.pkcs11_words, "--wrap", "-m", *more, *ids, "-o", "blob")
        assert done.returncode != 0
        assert b"C_WrapKey failed: rv = CKR_MECHANISM_INVALID" in done.stderr
    token13.delete("travels", "secrkey")
    token13.delete("wraps", "secrkey")


def test_bind_signs_a_zone(token13: TokenAddress, debian: Debian13) -> None:
    """BIND's allocator and the provider's way to load modules need the C library's own first."""
    client = debian.library("pkcs11/p11-kit-client.so")
    conf = token13.work / "provider.cnf"
    provider = debian.library("ossl-modules/pkcs11.so")
    conf.write_text(PROVIDER.format(provider=provider, client=client))
    env = {"OPENSSL_CONF": str(conf), "LD_PRELOAD": str(debian.library("libc.so.6"))}
    for algorithm, kind in (("RSASHA256", "rsa:2048"), ("ECDSAP256SHA256", "EC:prime256v1")):
        work = token13.work / f"zone-{algorithm}"
        work.mkdir()
        (work / "example").write_text(ZONE)
        for role, flags in (("ksk", ("-f", "KSK")), ("zsk", ())):
            token13.make_pair(role, kind)
            label = f"pkcs11:object={role};pin-source=file:{token13.pin_file}"
            words = ("-a", algorithm, "-K", str(work), *flags, "-l", label, "example")
            name = token13.run(*debian.program("bin/dnssec-keyfromlabel"), *words, env=env)
            private = Path(work / f"{name.decode().strip()}.private").read_text()
            assert "Label:" in private
            assert "PrivateExponent" not in private
        words = ("-K", str(work), "-S", "-o", "example", "-f", str(work / "signed"))
        signer = debian.program("bin/dnssec-signzone")
        token13.run(*signer, *words, work / "example", env=env)
        token13.run(*debian.program("bin/dnssec-verify"), "-o", "example", work / "signed")
        assert (work / "signed").read_text().count("RRSIG") > 8
        for role in ("ksk", "zsk"):
            token13.delete(role)


def test_openssls_provider_signs(token13: TokenAddress, debian: Debian13) -> None:
    client = debian.library("pkcs11/p11-kit-client.so")
    conf = token13.work / "provider.cnf"
    provider = debian.library("ossl-modules/pkcs11.so")
    conf.write_text(PROVIDER.format(provider=provider, client=client))
    env = {"OPENSSL_CONF": str(conf)}
    token13.make_pair("web")
    words = ("req", "-new", "-x509", "-config", "/dev/null", "-subj", "/CN=provider", "-key")
    openssl = debian.program("bin/openssl")
    more = (token13.uri("web"), "-out", "provider.crt")
    token13.run(*openssl, *words, *more, env=env)
    token13.run("openssl", "verify", "-check_ss_sig", "-CAfile", "provider.crt", "provider.crt")
    token13.delete("web")
