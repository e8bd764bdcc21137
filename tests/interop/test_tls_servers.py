"""nginx and Apache with their key in the token: TLS 1.2 and 1.3, reloads, HSMs that die."""

from __future__ import annotations

import time

import pytest

from tests.interop.address import TokenAddress
from tests.interop.test_openssl import certificate
from tests.interop.tls_servers import TlsLoad, TlsServer

pytestmark = [
    *(pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc, pytest.mark.engine),
    *(pytest.mark.nginx, pytest.mark.apache),
]


@pytest.mark.parametrize("name", ["nginx", "apache"])
@pytest.mark.parametrize("kind", ["rsa:2048", "EC:prime256v1"])
def test_pages_are_served(token: TokenAddress, name: str, kind: str) -> None:
    token.make_pair("web", kind)
    certificate(token, "web")
    with TlsServer(token, name, "web") as server:
        for version in TlsLoad.VERSIONS:
            for _ in range(3):
                server.fetch(version)
    token.delete("web")


@pytest.mark.gateway_only
@pytest.mark.parametrize("name", ["nginx", "apache"])
def test_pages_are_served_while_workers_reload_and_hsms_die(token: TokenAddress, name: str) -> None:
    """A worker whose start p11-kit's own server misses serves nobody: it is not asked for this."""
    assert token.hsms is not None
    token.make_pair("web")
    certificate(token, "web")
    with TlsServer(token, name, "web") as server, TlsLoad(server) as load:
        for number in range(token.hsms.count):
            time.sleep(0.5)
            token.hsms.kill(number)
            server.reload()
            time.sleep(1)
            token.hsms.start(number)
        time.sleep(0.5)
    assert load.failures == []
    assert load.served > 5
    token.delete("web")
