"""The agent process: one HSM, one token, one directory."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from orchestrator.agent.core import Core, HsmConfig
from orchestrator.agent.hsm import Hsm
from orchestrator.agent.server import Server
from orchestrator.agent.vault import Vault
from orchestrator.model.errors import OrchestratorError, UsageError
from orchestrator.model.profile import FirmwareProfile
from orchestrator.tokens.softhsm import SoftHsmStore
from orchestrator.wire.process import (
    die_with_parent,
    fault_from_environment,
    given_parent,
    leave_no_core,
    return_freed_memory,
)
from orchestrator.wire.streams import listen
from orchestrator.wire.system_clock import SystemClock

EXIT_LOCKED: Final = 3
EXIT_BROKEN: Final = 4
_log = logging.getLogger("cloister.agent")


def run(directory: Path) -> int:
    """Serve the HSM in `directory` until SIGTERM; return the exit status."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    os.umask(0o077)
    leave_no_core()
    die_with_parent(given_parent())
    return_freed_memory()
    with (directory / "agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.error("another agent serves %s", directory)  # no traceback
            return EXIT_LOCKED
        try:
            core = open_core(directory)
        except OrchestratorError as exc:
            _log.error("%s: %s", exc.code, exc)  # the message says it all
            (directory / "trouble").write_text(f"{exc.code}: {exc}\n")
            return EXIT_BROKEN
        (directory / "trouble").unlink(missing_ok=True)
        listener = listen(directory / "agent.sock")
        server = Server(Hsm(core), listener)
        threading.Thread(target=server.run, daemon=True, name="accept").start()
        _log.info("%s serves at seq %d", core.config.hsm, core.state.seq)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        listener.close()
        core.vault.close()
        _log.info("%s ends", core.config.hsm)
        # Not through the interpreter's end: threads in the token library must not outlive it.
        sys.stderr.flush()
        os._exit(0)


class _Config(msgspec.Struct):
    """`hsm.json`: who this HSM is, and the files that it reads."""

    hsm: str
    host: str
    zone: str
    profile: str
    host_key: str


def _read_config(path: Path) -> _Config:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError, RecursionError) as exc:
        raise UsageError(f"{path} is damaged: {exc}; delete the HSM and create another") from exc


def open_core(directory: Path) -> Core:
    """Open the HSM in `directory`, made when its token is not whole yet; raise what is wrong."""
    config = _read_config(directory / "hsm.json")
    try:
        profile_file = Path(config.profile)
        profile = FirmwareProfile.parse(profile_file.read_text(), str(profile_file))
        host_key = load_pem_private_key(Path(config.host_key).read_bytes(), password=None)
    except (OSError, ValueError) as exc:
        raise UsageError(f"{directory.name} cannot be opened: {exc}; mend or delete it") from exc
    if not isinstance(host_key, Ed25519PrivateKey):
        raise UsageError(f"{config.host_key} is no Ed25519 key")
    token = directory / "token"
    store = (
        SoftHsmStore.open(token, profile)
        if (token / "ready").exists()
        else SoftHsmStore.create(token, profile)
    )
    vault = Vault(directory / "state.db", store)
    hsm = HsmConfig(config.hsm, config.host, config.zone)
    return Core(hsm, profile, store, vault, SystemClock(), host_key, fault_from_environment())
