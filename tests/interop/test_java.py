"""Java 17 through SunPKCS11: keytool, jarsigner, and a program with eight threads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.address import TokenAddress

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.java]
PROGRAMS = Path(__file__).with_name("programs")


def configuration(token: TokenAddress) -> Path:
    """Write the provider's configuration, as the documentation shows it."""
    path = token.work / "pkcs11.cfg"
    path.write_text(f"name = Cluster\nlibrary = {token.module}\nslotListIndex = 0\n")
    return path


def store(token: TokenAddress) -> tuple[str, ...]:
    """Name the token as a key store; the PIN comes from the environment."""
    provider = ("-providerClass", "sun.security.pkcs11.SunPKCS11", "-providerArg")
    where = ("-keystore", "NONE", "-storetype", "PKCS11", "-storepass:env", "TOKEN_PIN")
    return (*where, *provider, str(configuration(token)))


def make_entry(token: TokenAddress, alias: str, *kind: str) -> None:
    """Have keytool make a key and its certificate in the token."""
    words = ("-genkeypair", "-alias", alias, "-dname", f"CN={alias}", *kind)
    token.run("keytool", *words, *store(token))


def delete_entry(token: TokenAddress, alias: str) -> None:
    """Have keytool delete them."""
    token.run("keytool", "-delete", "-alias", alias, *store(token))


RSA = ("-keyalg", "RSA", "-keysize", "2048")
EC = ("-keyalg", "EC", "-groupname", "secp256r1")


@pytest.mark.parametrize("kind", [RSA, EC])
def test_keytool_makes_lists_requests_and_deletes(
    token: TokenAddress, kind: tuple[str, ...]
) -> None:
    make_entry(token, "own", *kind)
    listed = token.run("keytool", "-list", *store(token)).decode()
    assert "own, PrivateKeyEntry" in listed
    request = token.run("keytool", "-certreq", "-alias", "own", *store(token))
    said = token.run("openssl", "req", "-verify", "-noout", "-subject", stdin=request)
    assert b"CN = own" in said
    pem = token.run("keytool", "-exportcert", "-rfc", "-alias", "own", *store(token))
    (token.work / "own.pem").write_bytes(pem)
    token.run("openssl", "verify", "-check_ss_sig", "-CAfile", "own.pem", "own.pem")
    delete_entry(token, "own")
    assert "own" not in token.run("keytool", "-list", *store(token)).decode()


def test_a_signed_certificate_is_imported(token: TokenAddress) -> None:
    make_entry(token, "own", *EC)
    words = ("-x509", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca")
    token.run("openssl", "req", *words, "-keyout", "ca.key", "-out", "ca.pem")
    request = token.run("keytool", "-certreq", "-alias", "own", *store(token))
    signer = ("-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "signed.pem")
    token.run("openssl", "x509", *signer, stdin=request)
    chain = (token.work / "signed.pem").read_text() + (token.work / "ca.pem").read_text()
    (token.work / "chain.pem").write_text(chain)
    given = ("-importcert", "-noprompt", "-alias", "own", "-file", "chain.pem")
    token.run("keytool", *given, *store(token))
    listed = token.run("keytool", "-list", "-v", "-alias", "own", *store(token)).decode()
    assert "Certificate chain length: 2" in listed
    delete_entry(token, "own")


def test_a_jar_is_signed(token: TokenAddress) -> None:
    make_entry(token, "own", *RSA)
    (token.work / "content").write_text("content\n")
    token.run("jar", "cf", "own.jar", "content")
    token.run("jarsigner", *store(token), "own.jar", "own")
    assert b"jar verified." in token.run("jarsigner", "-verify", "own.jar")
    pem = token.run("keytool", "-printcert", "-jarfile", "own.jar", "-rfc")
    assert b"BEGIN CERTIFICATE" in pem
    delete_entry(token, "own")


@pytest.mark.parametrize("kind", [RSA, EC])
def test_eight_threads_sign_and_encrypt(token: TokenAddress, kind: tuple[str, ...]) -> None:
    """Encrypting needs the gateway: p11-kit's server leaves Java's AES operations active."""
    make_entry(token, "own", *kind)
    token.run("javac", "-d", token.work, PROGRAMS / "Load.java")
    more = ("sign",) if token.source == "stock" else ()
    said = token.run("java", "-cp", token.work, "Load", configuration(token), "own", "2", *more)
    signatures, blocks, errors = map(int, re.findall(r"\d+", said.decode()))
    assert errors == 0
    assert signatures > 8
    assert blocks > 8 or token.source == "stock"
    delete_entry(token, "own")
