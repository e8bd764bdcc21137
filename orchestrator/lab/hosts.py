"""The lab's hosts as the control plane drives them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from orchestrator.client.connection import RpcConnection
from orchestrator.control.hosts import HostInfo
from orchestrator.control.profiles import profile_path
from orchestrator.lab.layout import Layout
from orchestrator.lab.protocol import Order, ask
from orchestrator.model.errors import OrchestratorError, UnavailableError
from orchestrator.wire.messages import Hello

START_TIMEOUT_S: Final = 60.0


class LabHosts:
    """`control.hosts.Hosts` of the embedded lab."""

    def __init__(self, home: Path) -> None:
        self._layout = Layout(home)

    def hosts(self) -> list[HostInfo]:
        """Return the lab's hosts."""
        found = self._layout.hosts()
        if not found:
            raise UnavailableError("there is no lab in this home; `cloister lab up`")
        return found

    def create_hsm(self, host: str, hsm_id: str, profile: str) -> None:
        """Make an HSM and wait until it answers."""
        ask(self._layout.socket, Order("create", host, hsm_id, str(profile_path(profile))))
        self.wait(host, hsm_id)

    def wait(self, host: str, hsm_id: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until an HSM answers."""
        path = self.hsm_directory(host, hsm_id) / "agent.sock"
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                connection = RpcConnection(path)
                connection.call(Hello(), 5.0)
                connection.close()
                return
            except OrchestratorError as exc:
                if time.monotonic() > deadline:
                    log = path.parent / "agent.log"
                    raise UnavailableError(f"{hsm_id} does not come up; see {log}") from exc
                time.sleep(0.05)

    def destroy_hsm(self, host: str, hsm_id: str) -> None:
        """End an HSM and remove its directory."""
        ask(self._layout.socket, Order("destroy", host, hsm_id))

    def hsms(self, host: str) -> list[str]:
        """Return the ids of a host's HSMs."""
        return [directory.name for name, directory in self._layout.all_hsms() if name == host]

    def hsm_directory(self, host: str, hsm_id: str) -> Path:
        """Return an HSM's directory."""
        return self._layout.hsm_directory(host, hsm_id)
