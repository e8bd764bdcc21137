"""What only the SoftHSM store has: its directory, its PIN, its leftovers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orchestrator.control.profiles import load_profiles
from orchestrator.model.errors import RefusedError
from orchestrator.tokens.softhsm import SoftHsmStore
from orchestrator.tokens.store import TokenError

pytestmark = pytest.mark.softhsm
PROFILE = load_profiles()["hsm2m.medium"]


def test_files_are_their_owners_alone_and_the_pin_is_nowhere_else(tmp_path: Path) -> None:
    store = SoftHsmStore.create(tmp_path / "token", PROFILE)
    try:
        pin = (tmp_path / "token" / "pin").read_bytes().strip()
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "token" / "pin").stat().st_mode) == 0o600
        others = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "pin"]
        assert not [p for p in others if pin in p.read_bytes()]
        assert pin not in Path("/proc/self/cmdline").read_bytes()
        assert pin not in Path("/proc/self/environ").read_bytes()
    finally:
        store.close()


def test_a_whole_token_is_not_made_again(tmp_path: Path) -> None:
    SoftHsmStore.create(tmp_path / "token", PROFILE).close()
    with pytest.raises(RefusedError):
        SoftHsmStore.create(tmp_path / "token", PROFILE)


def test_a_half_made_token_is_started_again(tmp_path: Path) -> None:
    first = SoftHsmStore.create(tmp_path / "token", PROFILE)
    identity = first.identity_public()
    first.close()
    (tmp_path / "token" / "ready").unlink()
    with pytest.raises(TokenError):
        SoftHsmStore.open(tmp_path / "token", PROFILE)
    again = SoftHsmStore.create(tmp_path / "token", PROFILE)
    assert again.identity_public() != identity
    again.close()


def test_what_a_kill_left_is_swept_away(tmp_path: Path) -> None:
    store = SoftHsmStore.create(tmp_path / "token", PROFILE)
    store.create_masking_key()
    store.close()
    [directory] = [p for p in (tmp_path / "token" / "tokens").iterdir() if p.is_dir()]
    (directory / "00000000-0000-0000-0000-000000000000.object").write_bytes(b"")
    again = SoftHsmStore.open(tmp_path / "token", PROFILE)
    assert again.has_masking_key()
    assert not [p for p in directory.glob("*.object") if p.stat().st_size == 0]
    again.close()


def test_a_lost_long_lived_key_is_named(tmp_path: Path) -> None:
    store = SoftHsmStore.create(tmp_path / "token", PROFILE)
    store.close()
    [directory] = [p for p in (tmp_path / "token" / "tokens").iterdir() if p.is_dir()]
    for path in directory.glob("*.object"):
        if path.name != "token.object":
            path.unlink()
    with pytest.raises(TokenError, match="has lost its key"):
        SoftHsmStore.open(tmp_path / "token", PROFILE)
