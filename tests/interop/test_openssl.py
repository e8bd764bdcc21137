"""OpenSSL with its PKCS#11 engine (libp11): requests, certificates, CMS, raw operations."""

from __future__ import annotations

import pytest

from tests.interop.address import TokenAddress

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine]
ENGINE = ("-engine", "pkcs11", "-keyform", "engine")
PSS = ("-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32")


def certificate(token: TokenAddress, label: str, name: str = "localhost") -> None:
    """Write LABEL.crt, signed by the token's key itself."""
    words = ("-new", "-x509", "-sha256", "-days", "2", "-subj", f"/CN={name}")
    more = ("-addext", f"subjectAltName=DNS:{name}", "-key", token.uri(label))
    token.run("openssl", "req", *ENGINE, *words, *more, "-out", f"{label}.crt")


@pytest.mark.also_stock
@pytest.mark.parametrize("kind", ["rsa:2048", "EC:prime256v1"])
def test_a_self_signed_certificate_verifies(token: TokenAddress, kind: str) -> None:
    token.make_pair("own", kind)
    certificate(token, "own")
    said = token.run("openssl", "verify", "-check_ss_sig", "-CAfile", "own.crt", "own.crt")
    assert said.strip() == b"own.crt: OK"
    token.delete("own")


def test_cms_is_signed_and_opened(token: TokenAddress) -> None:
    """A signed message verifies; one enveloped for the key opens."""
    token.make_pair("own", "rsa:2048")
    certificate(token, "own")
    (token.work / "letter").write_bytes(b"Dear all,\n")
    signer = ("-signer", "own.crt", "-inkey", token.uri("own"))
    token.run("openssl", "cms", "-sign", *ENGINE, *signer, "-in", "letter", "-out", "signed")
    token.run(
        *("openssl", "cms", "-verify", "-CAfile", "own.crt", "-in", "signed", "-purpose", "any")
    )
    token.make_pair("box", "rsa:2048", "decrypt")
    words = ("-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca")
    token.run("openssl", "req", *words, "-keyout", "ca.key", "-out", "ca.crt")
    words = ("-new", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=box")
    token.run(
        *("openssl", "x509", *words, "-force_pubkey", token.public_key("box"), "-out", "box.crt")
    )
    token.run("openssl", "cms", "-encrypt", "-aes256", "-in", "letter", "-out", "sealed", "box.crt")
    key = ("-recip", "box.crt", "-inkey", token.uri("box"))
    opened = token.run("openssl", "cms", "-decrypt", *ENGINE, *key, "-in", "sealed")
    assert opened.splitlines() == [b"Dear all,"]
    token.delete("own")
    token.delete("box")


def test_raw_signatures(token: TokenAddress) -> None:
    (token.work / "digest").write_bytes(bytes(range(32)))
    for kind, options in (("rsa:2048", ()), ("rsa:2048", PSS), ("EC:prime256v1", ())):
        token.make_pair("own", kind)
        words = ("-pkeyopt", "digest:sha256", *options, "-in", "digest")
        key = ("-inkey", token.uri("own"))
        token.run("openssl", "pkeyutl", "-sign", *ENGINE, *key, *words, "-out", "raw")
        public = ("-pubin", "-inkey", token.public_key("own"), "-sigfile", "raw")
        said = token.run("openssl", "pkeyutl", "-verify", *public, *words)
        assert b"Signature Verified Successfully" in said
        token.delete("own")


def test_oaep_and_pkcs1_decryption(token: TokenAddress) -> None:
    token.make_pair("own", "rsa:2048", "decrypt")
    (token.work / "secret").write_bytes(b"a short secret")
    for padding in ("pkcs1", "oaep"):
        words = ("-pkeyopt", f"rsa_padding_mode:{padding}")
        public = ("-pubin", "-inkey", token.public_key("own"))
        token.run(
            "openssl", "pkeyutl", "-encrypt", *public, *words, "-in", "secret", "-out", "sealed"
        )
        key = ("-inkey", token.uri("own"))
        said = token.run("openssl", "pkeyutl", "-decrypt", *ENGINE, *key, *words, "-in", "sealed")
        assert said == b"a short secret"
    token.delete("own")


def test_a_key_that_is_not_there(token: TokenAddress) -> None:
    words = ("-new", "-x509", "-subj", "/CN=x", "-key", token.uri("nothing"))
    done = token.attempt("openssl", "req", *ENGINE, *words)
    assert done.returncode != 0
