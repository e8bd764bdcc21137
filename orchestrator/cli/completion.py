"""Shell completion: reads directory names only, never the database, and fails silently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def _names(pattern: str) -> Iterator[Path]:
    with suppress(Exception):  # a broken home must not break the shell's prompt
        from orchestrator.client.directory import default_home

        yield from sorted(default_home().glob(pattern))


def clusters() -> list[str]:
    """Complete cluster ids."""
    return [path.name for path in _names("clusters/cluster-*")]


def hsms() -> list[str]:
    """Complete HSM ids."""
    return [path.name for path in _names("lab/hosts/*/hsms/hsm-*")]


def hosts() -> list[str]:
    """Complete host names."""
    return [path.name for path in _names("lab/hosts/*")]


def zones() -> list[str]:
    """Complete availability zones."""
    found: set[str] = set()
    for path in _names("lab/hosts/*/zone"):
        with suppress(OSError):
            found.add(path.read_text().strip())
    return sorted(found)


def backups() -> list[str]:
    """Complete backup ids."""
    return [path.stem for path in _names("backups/backup-*.backup")]


def profiles() -> list[str]:
    """Complete names of firmware profiles."""
    with suppress(Exception):
        from orchestrator.control.profiles import load_profiles

        return sorted(load_profiles())
    return []
