"""The frame that `key_mgmt_util` puts around what a command says."""

from __future__ import annotations

from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import LegacyCommand
from orchestrator.cli.legacy.tool import Tool
from orchestrator.cli.render import printable
from orchestrator.model.errors import OrchestratorError


def framed(
    tool: Tool, command: LegacyCommand, lines: list[str], failure: OrchestratorError | None
) -> list[str]:
    """Return a command's result: return code, what it says, and how each HSM is."""
    code = numbers.SUCCESS if failure is None else numbers.return_code(failure.code)
    text = numbers.CODES[code][0]
    framed_ = [f"        Cfm3{command.call} returned: 0x{code:02x} : {text}", ""]
    if failure is not None:
        return [*framed_, f"        {printable(str(failure))}", ""]
    said = [f"        {line}".rstrip() for line in lines]
    return [*framed_, *said, *([""] if said else []), *cluster_status(tool), ""]


def cluster_status(tool: Tool) -> list[str]:
    """Return one line for each HSM: whether it answers and holds every change."""
    success = numbers.CODES[numbers.SUCCESS][0]
    lines = ["        Cluster Status:"]
    try:
        servers = tool.servers()
    except OrchestratorError as exc:  # what was done is done, and must not look as if it were not
        return [*lines, f"        not known: {printable(str(exc))}"]
    for server in reversed(servers):
        if server.is_up:
            said = f"0x00000000 : {success}"
        else:
            trouble = printable(server.hsm.trouble) or str(server.hsm.state)
            said = f"0x{numbers.FAILED:08x} : HSM Error: {server.hsm.hsm_id} {trouble}"
        lines.append(f"        Node id {server.number} status: {said}")
    return lines
