"""GnuTLS: p11tool and certtool."""

from __future__ import annotations

import pytest

from tests.interop.address import PIN, TokenAddress

PIN_THERE = {"GNUTLS_PIN": PIN}
pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.gnutls]


@pytest.mark.parametrize(
    "kind",
    [("--generate-privkey=rsa", "--bits=2048"), ("--generate-privkey=ecdsa", "--curve=secp256r1")],
)
def test_p11tool_makes_tests_and_lists(token: TokenAddress, kind: tuple[str, ...]) -> None:
    tool = ("p11tool", "--provider", str(token.module), "--batch")
    url = token.run(*tool, "--list-token-urls").decode().split()[0]
    token.run(
        *tool, "--login", *kind, "--label", "mail", "--outfile", "mail.pub", url, env=PIN_THERE
    )
    listed = token.run(*tool, "--login", "--list-all", url, env=PIN_THERE).decode()
    assert "object=mail;type=private" in listed
    key = f"{url};object=mail;type=private"
    token.run(*tool, "--login", "--test-sign", key, env=PIN_THERE)
    (token.work / "template").write_text('cn = "mail"\nsigning_key\nexpiration_days = 2\n')
    words = ("--generate-self-signed", "--template", "template", "--load-privkey", key)
    token.run(
        *("certtool", "--provider", token.module, *words, "--load-pubkey", "mail.pub"),
        *("--outfile", "mail.crt"),
        env=PIN_THERE,
    )
    token.run("openssl", "verify", "-check_ss_sig", "-CAfile", "mail.crt", "mail.crt")
    token.run(
        *tool,
        "--login",
        "--write",
        "--load-certificate",
        "mail.crt",
        "--label",
        "mail",
        url,
        env=PIN_THERE,
    )
    shown = token.run(*tool, "--export", f"{url};object=mail;type=cert", env=PIN_THERE)
    assert shown.strip() == (token.work / "mail.crt").read_bytes().strip()
    for kind_ in ("private", "public", "cert"):
        token.run(*tool, "--login", "--delete", f"{url};object=mail;type={kind_}", env=PIN_THERE)
