"""Every implementation of a protocol, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.control.profiles import load_profiles
from orchestrator.tokens.softhsm import SoftHsmStore
from orchestrator.tokens.store import TokenStore
from tests.fakes.token_store import FakeTokenStore

Reopen = Callable[[TokenStore], TokenStore]


@pytest.fixture(params=["fake", pytest.param("softhsm", marks=pytest.mark.softhsm)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TokenStore, Reopen]]:
    """A new store, and how to open it again as after a crash."""
    if request.param == "fake":
        yield FakeTokenStore(), lambda store: store.crashed()  # type: ignore[attr-defined]
        return
    profile = load_profiles()["hsm2m.medium"]
    held: list[SoftHsmStore] = [SoftHsmStore.create(tmp_path / "token", profile)]

    def reopen(_: TokenStore) -> TokenStore:
        held[-1].close()
        held.append(SoftHsmStore.open(tmp_path / "token", profile))
        return held[-1]

    yield held[0], reopen
    held[-1].close()


@pytest.fixture
def store(pair: tuple[TokenStore, Reopen]) -> TokenStore:
    return pair[0]


@pytest.fixture
def member(store: TokenStore) -> TokenStore:
    store.create_masking_key()
    return store
