"""The documented CA, as documented: its commands are taken from the guide and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.address import TokenAddress

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine]
GUIDE = Path(__file__).parents[2] / "docs" / "issuing-ca.md"


def test_the_guide_works(token: TokenAddress) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    token.made.add("issuing-ca")
    token.run("bash", "-euxo", "pipefail", stdin="\n".join(blocks).encode(), timeout_s=100)
    ca = token.work / "issuing-ca"
    assert "www.example.org" in (ca / "index.txt").read_text()
    assert (ca / "pin").stat().st_mode & 0o777 == 0o600
    chain = ("-CAfile", ca / "root.crt", "-untrusted", ca / "issuing.crt", ca / "www.crt")
    token.run("openssl", "verify", *chain)
    revoked = ("-crl_check", "-CRLfile", ca / "issuing.crl")
    done = token.attempt("openssl", "verify", *revoked, *chain)
    assert done.returncode != 0
    assert b"certificate revoked" in done.stderr
    said = token.run("openssl", "x509", "-in", ca / "www.crt", "-noout", "-text").decode()
    assert "CN = Example Issuing CA" in said
    assert "ecdsa-with-SHA384" in said
    token.delete("issuing-ca")
