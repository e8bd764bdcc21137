"""Every test here runs through the gateway; those marked `also_stock` through p11-kit's too.

`--interop=stock` runs all of them through p11-kit's server, which nobody here wrote: what fails
there is wrong in the test.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from tests.interop import debian13, sources
from tests.interop.address import TokenAddress


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its sources."""
    if "address" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if metafunc.config.getoption("--interop") == "gateway":
        names = ["gateway", "stock"] if "also_stock" in marks else ["gateway"]
    elif "gateway_only" in marks:
        names = []
    else:  # Debian 12's server misreads Debian 13's client
        names = ["stock13" if "token13" in metafunc.fixturenames else "stock"]
    metafunc.parametrize("address", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def debian(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> debian13.Debian13:
    is_stock = pytestconfig.getoption("--interop") == "stock"
    packages = debian13.CLIENT + (debian13.SERVER if is_stock else ())
    return debian13.fetch(tmp_path_factory.mktemp("debian13"), packages)


@pytest.fixture(scope="session", name="address")
def _address(request: pytest.FixtureRequest) -> Iterator[TokenAddress]:
    if request.param == "stock13":
        source = debian13.stock(request.getfixturevalue("debian"))
    else:
        source = {"gateway": sources.gateway, "stock": sources.stock}[request.param]()
    with source as address:
        yield address


@pytest.fixture
def token(address: TokenAddress) -> Iterator[TokenAddress]:
    """A token; what a failed test left there is deleted, so that the next fails for its own."""
    yield address
    for label in tuple(address.made):
        for kind in ("privkey", "pubkey"):
            with contextlib.suppress(AssertionError):
                address.delete(label, kind)


@pytest.fixture
def token13(token: TokenAddress, debian: debian13.Debian13) -> TokenAddress:
    """The token as Debian 13's programs use it."""
    return dataclasses.replace(token, tool=debian.tool)
