"""The firmware profiles that ship with Cloister."""

from __future__ import annotations

from pathlib import Path

from orchestrator.model.errors import NotFoundError
from orchestrator.model.profile import FirmwareProfile


def _directory() -> Path:
    package = Path(__file__).resolve().parent.parent
    installed = package / "firmware_profiles"  # in a wheel
    return installed if installed.is_dir() else package.parent / "firmware_profiles"


def profile_path(name: str) -> Path:
    """Return a profile's file.

    Raises:
        NotFoundError: there is no such HSM type.
    """
    path = _directory() / f"{name}.toml"
    if path.parent != _directory() or not path.is_file():
        known = ", ".join(load_profiles())
        raise NotFoundError("HSM type", name, f"there are {known}")
    return path


def load_profiles() -> dict[str, FirmwareProfile]:
    """Return all profiles by name."""
    files = sorted(_directory().glob("*.toml"))
    profiles = [FirmwareProfile.parse(path.read_text(), str(path)) for path in files]
    return {profile.name: profile for profile in profiles}
