"""OpenSC's pkcs11-tool through Debian 12's client; OpenSSL checks what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.address import TokenAddress

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine]
MESSAGE = b"to be signed"
OAEP = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1")


def by_id(label: str) -> tuple[str, str]:
    """Name a key for its use: this release of the tool looks for no label then."""
    return "--id", label.encode().hex()


def write(token: TokenAddress, name: str, content: bytes) -> Path:
    path = token.work / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "mechanism", "more", "checks"),
    [
        ("rsa:2048", "SHA256-RSA-PKCS", (), ()),
        ("rsa:3072", "SHA512-RSA-PKCS", (), ()),
        (
            "rsa:2048",
            "RSA-PKCS-PSS",
            ("--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256"),
            ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"),
        ),
        ("EC:prime256v1", "ECDSA", ("--signature-format", "openssl"), ()),
        ("EC:secp384r1", "ECDSA", ("--signature-format", "openssl"), ()),
    ],
)
def test_signatures_hold(
    token: TokenAddress,
    kind: str,
    mechanism: str,
    more: tuple[str, ...],
    checks: tuple[str, ...],
) -> None:
    token.make_pair("signing", kind)
    try:
        message = write(token, "message", MESSAGE)
        hash_ = {"SHA512-RSA-PKCS": "sha512", "ECDSA": "sha384"}.get(mechanism, "sha256")
        digest = f"-{hash_}"
        asked = message
        if not mechanism.startswith("SHA"):  # these take a digest
            asked = token.work / "digest"
            token.run("openssl", "dgst", digest, "-binary", "-out", asked, message)
        made = token.work / "signature"
        words = ("--sign", "-m", mechanism, *by_id("signing"), *more)
        token.pkcs11_tool(*words, "-i", asked, "-o", made)
        public = token.public_key("signing")
        token.run(
            "openssl", "dgst", digest, "-verify", public, "-signature", made, *checks, message
        )
        write(token, "message", MESSAGE + b"!")
        bad = token.attempt(
            "openssl", "dgst", digest, "-verify", public, "-signature", made, *checks, message
        )
        assert bad.returncode != 0
    finally:
        token.delete("signing")


def test_the_token_verifies(token: TokenAddress) -> None:
    token.make_pair("signing", "rsa:2048")
    message, made = write(token, "message", MESSAGE), token.work / "signature"
    words = ("-m", "SHA256-RSA-PKCS", *by_id("signing"), "-i", str(message))
    token.pkcs11_tool("--sign", *words, "-o", made)
    said = token.pkcs11_tool("--verify", *words, "--signature-file", made)
    assert b"Signature is valid" in said
    write(token, "message", MESSAGE + b"!")
    said = token.attempt(*token.pkcs11_words, "--verify", *words, "--signature-file", made).stdout
    assert b"Invalid signature" in said
    token.delete("signing")


@pytest.mark.parametrize("mechanism", ["RSA-PKCS", "RSA-PKCS-OAEP"])
def test_decryption_of_what_openssl_encrypted(token: TokenAddress, mechanism: str) -> None:
    token.make_pair("opening", "rsa:2048", "decrypt")
    is_oaep = mechanism == "RSA-PKCS-OAEP"
    secret = write(token, "secret", b"a short secret")
    words = ("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", token.public_key("opening"))
    token.run(*words, *(OAEP if is_oaep else ()), "-in", secret, "-out", token.work / "sealed")
    more = ("--hash-algorithm", "SHA-1") if is_oaep else ()
    out = token.work / "opened"
    words = ("--decrypt", "-m", mechanism, *by_id("opening"), *more)
    token.pkcs11_tool(*words, "-i", token.work / "sealed", "-o", out)
    assert out.read_bytes() == b"a short secret"
    token.delete("opening")


def make_secret(token: TokenAddress, label: str, *more: str, kind: str = "AES:32") -> None:
    words = ("--keygen", "--key-type", kind, "--sensitive", "--label", label)
    token.pkcs11_tool(*words, "--id", label.encode().hex(), *more)


def test_aes_gives_back_what_went_in(token: TokenAddress) -> None:
    make_secret(token, "blocks", "--usage-decrypt")
    plain, sealed, opened = (token.work / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(bytes(range(64)))
    words = ("-m", "AES-ECB", *by_id("blocks"))
    token.pkcs11_tool("--encrypt", *words, "-i", plain, "-o", sealed)
    assert len(sealed.read_bytes()) == 64
    assert sealed.read_bytes() != plain.read_bytes()
    token.pkcs11_tool("--decrypt", *words, "-i", sealed, "-o", opened)
    assert opened.read_bytes() == plain.read_bytes()
    token.delete("blocks", "secrkey")


def test_hmac(token: TokenAddress) -> None:
    plain = write(token, "plain", MESSAGE)
    make_secret(token, "macs", "--usage-sign", kind="GENERIC:32")
    words = ("-m", "SHA256-HMAC", *by_id("macs"), "-i", str(plain))
    mac = token.work / "mac"
    token.pkcs11_tool("--sign", *words, "-o", mac)
    assert len(mac.read_bytes()) == 32
    said = token.pkcs11_tool("--verify", *words, "--signature-file", mac)
    assert b"Signature is valid" in said
    token.delete("macs", "secrkey")


def test_a_key_travels_wrapped(token: TokenAddress) -> None:
    """An unwrapped key does what the wrapped one did: its value is compared by its work.

    This release of the tool wraps with no parameters, so not with OAEP.
    """
    token.make_pair("wrapping", "rsa:2048", "wrap")
    make_secret(token, "travels", "--extractable", "--usage-decrypt")
    plain, first, second = (token.work / name for name in ("plain", "first", "second"))
    plain.write_bytes(bytes(range(16)))
    blocks: tuple[str, ...] = ("--encrypt", "-m", "AES-ECB", "-i", str(plain))
    token.pkcs11_tool(*blocks, *by_id("travels"), "-o", first)
    blob = token.work / "blob"
    ids = ("--id", b"wrapping".hex(), "--application-id", b"travels".hex())
    token.pkcs11_tool("--wrap", "-m", "RSA-PKCS", *ids, "-o", blob)
    assert len(blob.read_bytes()) == 256
    token.delete("travels", "secrkey")
    ids = ("--id", b"wrapping".hex(), "--application-id", b"again".hex())
    new = ("--key-type", "AES:", "--application-label", "again", "--sensitive", "--usage-decrypt")
    token.pkcs11_tool("--unwrap", "-m", "RSA-PKCS", *ids, *new, "-i", blob)
    token.pkcs11_tool(*blocks, *by_id("again"), "-o", second)
    assert second.read_bytes() == first.read_bytes()
    token.delete("again", "secrkey")
    token.delete("wrapping")


def test_a_key_that_may_not_leave_stays(token: TokenAddress) -> None:
    token.make_pair("wrapping", "rsa:2048", "wrap")
    make_secret(token, "stays", "--usage-decrypt")
    ids = ("--id", b"wrapping".hex(), "--application-id", b"stays".hex())
    tried = token.attempt(*token.pkcs11_words, "--wrap", "-m", "RSA-PKCS", *ids, "-o", "blob")
    assert tried.returncode != 0
    assert b"CKR_KEY_UNEXTRACTABLE" in tried.stderr
    read = token.attempt(
        *token.pkcs11_words, "--read-object", "--type", "secrkey", "--label", "stays"
    )
    assert read.returncode != 0
    token.delete("stays", "secrkey")
    token.delete("wrapping")


@pytest.mark.also_stock
def test_certificates_and_data_are_stored(token: TokenAddress) -> None:
    key, pem, der = (token.work / name for name in ("c.key", "c.pem", "c.der"))
    words = ("-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stored", "-keyout", key)
    token.run("openssl", "req", *words, "-out", pem)
    token.run("openssl", "x509", "-in", pem, "-outform", "DER", "-out", der)
    named = ("--label", "stored", "--id", "0a0b")
    token.pkcs11_tool("--write-object", der, "--type", "cert", *named)
    listed = token.pkcs11_tool("--list-objects", "--type", "cert").decode()
    assert "stored" in listed
    assert "CN=stored" in listed
    out = token.work / "read"
    token.pkcs11_tool("--read-object", "--type", "cert", "--label", "stored", "-o", out)
    assert out.read_bytes() == der.read_bytes()
    token.pkcs11_tool("--delete-object", "--type", "cert", "--label", "stored")
    assert "stored" not in token.pkcs11_tool("--list-objects", "--type", "cert").decode()

    data = write(token, "data", bytes(range(256)) * 4)
    token.pkcs11_tool("--write-object", data, "--type", "data", "--label", "notes")
    token.pkcs11_tool("--read-object", "--type", "data", "--label", "notes", "-o", out)
    assert out.read_bytes() == data.read_bytes()
    token.delete("notes", "data")


def test_an_id_is_changed_and_found(token: TokenAddress) -> None:
    token.make_pair("signing")
    words = ("--type", "privkey", "--label", "signing")
    token.pkcs11_tool(*words, "--id", b"signing".hex(), "--set-id", "c0ffee")
    assert b"c0ffee" in token.pkcs11_tool("--list-objects", "--type", "privkey")
    token.delete("signing")


def test_the_tools_own_test(token: TokenAddress) -> None:
    """All but one zero-length request for random numbers, which the client itself refuses."""
    token.make_pair("signing", "rsa:2048")
    done = token.attempt(*token.pkcs11_words, "--test", "--label", "signing")
    said = done.stdout.decode() + done.stderr.decode()
    lines = [line.strip() for line in said.splitlines()]
    errors = [line for line in lines if line.startswith(("ERR:", "error:"))]
    known = {"ERR: C_GenerateRandom(buf1,0) failed: CKR_ARGUMENTS_BAD (0x7)"}
    if token.source == "stock":  # SoftHSM lets every private key decrypt, and OAEP not with SHA-256
        known.add("error: PKCS11 function C_DecryptInit failed: rv = CKR_ARGUMENTS_BAD (0x7)")
    assert set(errors) - known == set()
    for line in ("SHA256: OK", "RSA-PKCS: OK", "SHA1-RSA-PKCS: OK", "all 4 digest functions"):
        assert line in said
    token.delete("signing")


def test_the_tools_threads(token: TokenAddress) -> None:
    """Each of them initialises, asks for the token and ends; CKR_OK from both."""
    threads = ("--test-threads", "ILGISLT0") * 2
    done = token.attempt(*token.pkcs11_words, "--use-locking", *threads)
    assert b"all threads have ended with CKR_OK" in done.stderr
    assert done.returncode == 0


@pytest.mark.also_stock
def test_a_child_begins_anew(token: TokenAddress) -> None:
    done = token.attempt(*token.pkcs11_words, "--test-fork")
    assert done.returncode == 0
    assert b"forked child" in done.stdout


def test_a_wrong_pin_is_told(token: TokenAddress) -> None:
    done = token.attempt(
        *token.pkcs11_words, "--list-objects", env={"TOKEN_PIN": "alice:not-this-one"}
    )
    assert done.returncode != 0
    assert b"CKR_PIN_INCORRECT" in done.stderr
    token.pkcs11_tool("--list-objects")


def test_keys_are_seen_after_login_only(token: TokenAddress) -> None:
    token.make_pair("signing")
    listed = token.run("pkcs11-tool", "--module", token.module, "--list-objects")
    assert b"Private Key" not in listed
    assert b"Private Key Object; EC" in token.pkcs11_tool("--list-objects")
    token.delete("signing")


def test_random_numbers(token: TokenAddress) -> None:
    made = [token.pkcs11_tool("--generate-random", "64") for _ in range(3)]
    assert [len(value) for value in made] == [64] * 3
    assert len(set(made)) == 3
