"""Hosts: where HSMs run. The embedded lab is one way to have them, SSH hosts another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A prepared host: `key` is its raw Ed25519 public key (32 bytes)."""

    name: str
    zone: str
    key: bytes


class Hosts(Protocol):
    """Starts and ends HSM instances on prepared hosts. Every method may be called again."""

    def hosts(self) -> list[HostInfo]:
        """Return the prepared hosts, by name."""

    def create_hsm(self, host: str, hsm_id: str, profile: str) -> None:
        """Make an empty HSM and start it; return when it answers.

        Raises:
            UnavailableError: the host or its supervisor does not answer, or the HSM does not
                come up within 60 s; the call may be repeated.
        """

    def destroy_hsm(self, host: str, hsm_id: str) -> None:
        """End an HSM and remove its directory; nothing happens when there is none."""

    def hsms(self, host: str) -> list[str]:
        """Return the ids of the HSMs that a host has."""

    def hsm_directory(self, host: str, hsm_id: str) -> Path:
        """Return the directory in which the HSM's socket is."""
