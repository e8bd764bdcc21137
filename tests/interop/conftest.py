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
    if metafunc.config.getoption("--interop") == "stock":
        names = [] if metafunc.definition.get_closest_marker("gateway_only") else ["stock"]
    else:
        names = ["gateway"]
        if any(mark.name == "also_stock" for mark in metafunc.definition.iter_markers()):
            names.append("stock")
    metafunc.parametrize("address", names, indirect=True, scope="session")


@pytest.fixture(scope="session", name="address")
def _address(request: pytest.FixtureRequest) -> Iterator[TokenAddress]:
    with getattr(sources, getattr(request, "param", "gateway"))() as address:
        yield address


@pytest.fixture(scope="session")
def debian(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> debian13.Debian13:
    is_stock = pytestconfig.getoption("--interop") == "stock"
    packages = debian13.CLIENT + (debian13.SERVER if is_stock else ())
    return debian13.fetch(tmp_path_factory.mktemp("debian13"), packages)


@pytest.fixture(scope="module")
def token13(
    request: pytest.FixtureRequest, debian: debian13.Debian13, pytestconfig: pytest.Config
) -> Iterator[TokenAddress]:
    """A token whose programs are Debian 13's. Debian 12's stock server misreads this client."""
    source = (
        debian13.stock(debian)
        if pytestconfig.getoption("--interop") == "stock"
        else contextlib.nullcontext(request.getfixturevalue("address"))
    )
    with source as found:
        yield dataclasses.replace(found, tool=debian.tool)


@pytest.fixture
def token(address: TokenAddress) -> Iterator[TokenAddress]:
    """A token; what a failed test left there is deleted, so that the next fails for its own."""
    yield address
    for label in tuple(address.made):
        for kind in ("privkey", "pubkey"):
            with contextlib.suppress(AssertionError):
                address.delete(label, kind)
