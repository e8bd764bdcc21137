"""`cloister doctor`: what this machine and home lack, and the remedy."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from orchestrator.cli.command import command
from orchestrator.cli.invocation import Invocation
from orchestrator.model.errors import OrchestratorError, RefusedError

FREE_BYTES_MIN: Final = 500 * 1024 * 1024
CLOCK_SLACK_S: Final = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `result` is ok, warn or fail."""

    check: str
    result: str
    detail: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor")
    def doctor(call: Invocation) -> None:
        """Check programs, state directory, processes and clusters; say what to do.

        Exits with 1 when a check fails; warnings do not count.
        """
        with call.progress("Checking"):
            findings = [*_machine(call), *_home(call), *_clusters(call)]
        call.show({"checks": findings})
        if failed := [finding.check for finding in findings if finding.result == "fail"]:
            raise RefusedError("doctor", f"failed: {', '.join(failed)}")


def _judge(check: str, detail: str, remedy: str, *, is_good: bool, bad: str = "fail") -> Finding:
    return Finding(check, "ok", detail) if is_good else Finding(check, bad, detail, remedy)


def _machine(call: Invocation) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _judge("python", version, "use Python 3.11 or later", is_good=sys.version_info >= (3, 11))
    for name, profile in call.services.profiles().items():
        module = next((path for path in profile.modules if Path(path).exists()), "")
        yield _judge(
            f"module of {name}",
            module or "none of the profile's modules is installed",
            "apt-get install softhsm2",
            is_good=bool(module),
        )
    openssl = shutil.which("openssl") or ""
    yield _judge(
        "openssl",
        openssl or "not found",
        "apt-get install openssl (to sign CSRs with a CA of your own)",
        is_good=bool(openssl),
        bad="warn",
    )


def _home(call: Invocation) -> Iterator[Finding]:
    try:
        home = call.services.home()
    except OrchestratorError as exc:
        yield Finding("home", "fail", str(exc), "chmod 700 and chown it, or set CLOISTER_HOME")
        return
    status = home.stat()
    yield _judge(
        "home",
        str(home),
        f"chmod 700 {home}, and own it",
        is_good=status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077,
    )
    free = shutil.disk_usage(home).free
    yield _judge(
        "disk space",
        f"{free // (1024 * 1024)} MiB free",
        "free at least 500 MiB: a full disk freezes changes",
        is_good=free >= FREE_BYTES_MIN,
    )
    yield _clock(home)
    try:
        lab = call.services.lab().status(home)
    except OrchestratorError as exc:
        yield Finding("lab", "fail", str(exc), "see the message")
        return
    up = f"pid {lab.supervisor_pid}" if lab.is_up else "the lab is down"
    yield _judge("supervisor", up, "cloister lab up", is_good=lab.is_up)
    for agent in lab.agents:
        yield _judge(
            f"process of {agent.hsm_id}",
            agent.state,
            f"cloister lab start {agent.hsm_id}",
            is_good=agent.state == "running",
            bad="warn",
        )


def _clock(home: Path) -> Finding:
    """A clock that was set back is before what it has stamped already."""
    from orchestrator.wire.system_clock import SystemClock

    now_s = SystemClock().now_ms() / 1000
    stamps = [path.stat().st_mtime for path in home.glob("control.db*")]
    ahead = max(stamps, default=now_s) - now_s
    detail = f"{ahead:.0f} s behind the newest record" if ahead > 0 else "not behind any record"
    return _judge("clock", detail, "set the clock (NTP)", is_good=ahead < CLOCK_SLACK_S)


def _clusters(call: Invocation) -> Iterator[Finding]:
    try:
        views = call.plane.clusters()
    except OrchestratorError as exc:
        yield Finding("control plane", "fail", str(exc), "see the message")
        return
    for view in views:
        yield Finding(view.cluster_id, "ok", f"{view.state}, {len(view.hsms)} HSMs")
        for hsm in view.hsms:
            yield _judge(
                hsm.hsm_id,
                hsm.trouble or f"answers, at {hsm.seq}",
                f"cloister lab start {hsm.hsm_id}, or cloister hsm delete {hsm.hsm_id}",
                is_good=not hsm.trouble,
            )
        for warning in view.warnings:
            yield Finding(view.cluster_id, "warn", warning, "see the message")
