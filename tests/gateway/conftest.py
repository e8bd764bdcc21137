"""What the tests with real HSMs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.lab import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site") / "home")
    yield made
    made.close()
