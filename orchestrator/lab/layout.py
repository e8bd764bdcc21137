"""Where the embedded lab keeps its state: a home that is its owner's alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.client.directory import default_home
from orchestrator.control.hosts import HostInfo
from orchestrator.model.errors import (
    NotFoundError,
    RefusedError,
    StorageError,
    TamperedError,
    UsageError,
)
from orchestrator.model.steps import OnStep, Step, no_step
from orchestrator.wire.files import fsync_directory, make_directory, publish

ZONES_MAX: Final = 10
HOST_KEY_BYTES: Final = 32
HOME_BYTES_MAX: Final = 400
"""SQLite opens no path over 512 bytes, and an HSM's database lies some 60 below the home."""
INHERITED: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE", "CLOISTER_FAULT",
)  # fmt: skip
"""What children see of our environment: nothing that could hold a secret."""


def home() -> Path:
    """Return the state directory (CLOISTER_HOME, or in the XDG data directory)."""
    return default_home()


def check_home(path: Path) -> Path:
    """Make the home (mode 0700), or check that it is ours alone.

    Raises:
        RefusedError: it cannot be made, its path is too long, it belongs to another user, or
            others may enter it.
    """
    if len(os.fsencode(path.absolute())) > HOME_BYTES_MAX:
        raise RefusedError(
            "home",
            f"{path} has more than {HOME_BYTES_MAX} bytes; set CLOISTER_HOME to a shorter path",
        )
    try:
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
            fsync_directory(path.parent)
        found = path.stat()
    except OSError as exc:  # a link to nowhere, a file on the way, no right to make it
        raise RefusedError(
            "home", f"{path} cannot be a home: {exc.strerror}; set CLOISTER_HOME to another"
        ) from exc
    if not path.is_dir():
        raise RefusedError("home", f"{path} is no directory; set CLOISTER_HOME to another")
    if found.st_uid != os.getuid():
        raise RefusedError("home", f"{path} belongs to user {found.st_uid}; set CLOISTER_HOME")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RefusedError("home", f"{path} is open to others; `chmod 700 {path}`")
    return path


def _host(directory: Path) -> HostInfo:
    try:
        key = base64.b64decode((directory / "host_key.pub").read_bytes().strip(), validate=True)
        zone = (directory / "zone").read_text().strip()
        if len(key) != HOST_KEY_BYTES or not zone:
            raise ValueError("no Ed25519 key, or no zone")
    except (OSError, ValueError) as exc:
        raise TamperedError(
            f"{directory} is no host of the lab: its host_key.pub or zone is damaged; put them "
            "back, or move the directory away"
        ) from exc
    return HostInfo(directory.name, zone, key)


class Layout:
    """Paths of one home, and what stands at them."""

    def __init__(self, home: Path, on_step: OnStep = no_step) -> None:
        self.home, self._on_step = home, on_step
        self.lab = home / "lab"
        self.hosts_directory = self.lab / "hosts"
        self.socket, self.lock = self.lab / "supervisor.sock", self.lab / "supervisor.lock"
        self.log = self.lab / "supervisor.log"

    def prepare(self, zones: int) -> None:
        """Make zones and hosts, each with a key of its own; what stands is kept."""
        if not 1 <= zones <= ZONES_MAX:
            raise UsageError(f"a lab has 1 to {ZONES_MAX} availability zones")
        check_home(self.home)
        make_directory(self.lab)
        make_directory(self.hosts_directory)
        for letter in "abcdefghij"[:zones]:
            directory = self.hosts_directory / f"host-1{letter}"
            if directory.exists():
                continue
            draft = self.hosts_directory / f".draft-host-1{letter}"
            shutil.rmtree(draft, ignore_errors=True)
            make_directory(draft)
            make_directory(draft / "hsms")
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            publish(draft / "host_key.pem", pem)
            public = base64.b64encode(key.public_key().public_bytes_raw())
            publish(draft / "host_key.pub", public + b"\n")
            publish(draft / "zone", f"lab-1{letter}\n".encode())
            draft.rename(directory)  # the host appears whole
            fsync_directory(self.hosts_directory)

    def hosts(self) -> list[HostInfo]:
        """Return the hosts by name.

        Raises:
            TamperedError: a host's files are damaged or missing.
        """
        if not self.hosts_directory.is_dir():
            return []
        return [_host(directory) for directory in sorted(self.hosts_directory.glob("host-*"))]

    def hsms_directory(self, host: str) -> Path:
        """Return where a host's HSMs are."""
        directory = self.hosts_directory / host
        # A host's name is one part of a path, and none of those that lead elsewhere.
        is_name = host.startswith("host-") and not {"/", "\0"} & set(host)
        if not is_name or not directory.is_dir():
            raise NotFoundError("host", host, "see `cloister host list`")
        return directory / "hsms"

    def hsm_directory(self, host: str, hsm: str) -> Path:
        """Return an HSM's directory, whether it stands or not."""
        return self.hsms_directory(host) / hsm

    def all_hsms(self) -> list[tuple[str, Path]]:
        """Return (host, directory) of every HSM that was made whole."""
        return [
            (host.name, directory)
            for host in self.hosts()
            for directory in sorted(self.hsms_directory(host.name).glob("hsm-*"))
        ]

    def make_hsm(self, host: str, hsm: str, profile: str) -> None:
        """Make an HSM's directory; it appears whole, and what stands is kept."""
        target = self.hsm_directory(host, hsm)
        if target.exists():
            return
        zone = next(info.zone for info in self.hosts() if info.name == host)
        draft = target.with_name(f".draft-{hsm}")
        shutil.rmtree(draft, ignore_errors=True)
        key = str(target.parent.parent / "host_key.pem")
        config = {"hsm": hsm, "host": host, "zone": zone, "profile": profile, "host_key": key}
        try:
            make_directory(draft)
            publish(draft / "hsm.json", json.dumps(config).encode())
        except StorageError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(target)
        fsync_directory(target.parent)
        self._on_step(Step.HOST_HSM_MADE)

    def remove_hsm(self, host: str, hsm: str) -> None:
        """Remove an HSM's directory: first out of sight, then for good."""
        target = self.hsm_directory(host, hsm)
        trash = target.with_name(f".trash-{hsm}")
        if target.exists():
            shutil.rmtree(trash, ignore_errors=True)
            target.rename(trash)
            fsync_directory(target.parent)
            self._on_step(Step.HOST_HSM_REMOVED)
        shutil.rmtree(trash, ignore_errors=True)
