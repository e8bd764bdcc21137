"""The supervisor: one agent process per HSM directory, and the control loop.

Invariants: what shall run is computed from the directories at every turn; a killed HSM stays
down until it is started; agents are started from the main thread, whose end they do not survive,
and an HSM's directory is locked by its agent, so that none is ever doubled.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from orchestrator.control.automatic import AutomaticBackups
from orchestrator.control.backups import Backups
from orchestrator.control.plane import ControlPlane
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import INHERITED, Layout, check_home
from orchestrator.lab.protocol import AgentStatus, Answer, Order, receive
from orchestrator.model.errors import NotFoundError, OrchestratorError, UsageError
from orchestrator.model.ids import check_id
from orchestrator.wire.files import publish
from orchestrator.wire.frames import pack_frame
from orchestrator.wire.messages import Refusal, refusal_of
from orchestrator.wire.process import fault_from_environment
from orchestrator.wire.streams import listen

EXIT_LOCKED: Final = 3
TURN_S: Final = 0.2
HEAL_EVERY_S: Final = 1.0
GOSSIP_EVERY_S: Final = 0.2
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S: Final = 5.0
STOP_TIMEOUT_S: Final = 5.0
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
MALLOC: Final = "glibc.malloc.tcache_count=127"
"""Of glibc: keep more freed blocks at hand, for SoftHSM makes many for a signature."""
_log = logging.getLogger("cloister.lab")


@dataclass(slots=True)
class _Agent:
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    deaths: int = 0
    next_at_s: float = 0.0


@dataclass(slots=True)
class _Job:
    order: Order
    done: threading.Event = field(default_factory=threading.Event)
    answer: Answer = field(default_factory=Answer)


class Supervisor:
    """Runs the agents of one lab."""

    def __init__(self, home: Path, agent: tuple[str, ...]) -> None:
        self._layout = Layout(home, fault_from_environment())
        self._argv = agent
        self._agents: dict[Path, _Agent] = {}
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._stopping = False
        self._answering: list[threading.Thread] = []

    def run(self) -> None:
        """Keep agents running until SIGTERM, SIGINT or an order to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        listener = listen(self._layout.socket)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        for loop in (self._heal_for_ever, self._gossip_for_ever):
            threading.Thread(target=loop, daemon=True).start()
        _log.info("supervisor %d runs", os.getpid())
        try:
            while not self._stopping:
                self._turn()
                try:
                    self._do(self._jobs.get(timeout=TURN_S))
                except queue.Empty:
                    continue
        finally:
            listener.close()
            self._layout.socket.unlink(missing_ok=True)
            self._end_all()
            for thread in self._answering:  # the order to stop is answered too
                thread.join(STOP_TIMEOUT_S)
            _log.info("supervisor ends")

    def _stop(self) -> None:
        self._stopping = True

    # --- agents ---

    def _turn(self) -> None:
        """Bring what runs to what shall run."""
        now = time.monotonic()
        try:
            wanted = {directory for _, directory in self._layout.all_hsms()}
        except (OSError, OrchestratorError) as exc:
            _log.error("the hosts cannot be read, what runs goes on: %s", exc)  # no traceback
            return
        for directory in sorted(wanted):
            agent = self._agents.setdefault(directory, _Agent())
            if agent.process is not None and agent.process.poll() is not None:
                self._note_death(directory, agent, now)
            held = (directory / "down").exists()
            if agent.process is None and not held and now >= agent.next_at_s:
                try:
                    self._spawn(directory, agent, now)
                except OSError as exc:
                    _log.warning("%s cannot be started: %s", directory.name, exc)
                    self._note_death(directory, agent, now)
        for directory in set(self._agents) - wanted:
            self._end(self._agents.pop(directory))

    def _note_death(self, directory: Path, agent: _Agent, now: float) -> None:
        process, agent.process = agent.process, None
        if now - agent.started_at_s > STEADY_S:
            agent.deaths = 0
        wait = BACKOFF_S[min(agent.deaths, len(BACKOFF_S) - 1)]
        agent.deaths += 1
        agent.next_at_s = now + wait
        status = process.returncode if process else "none"
        _log.warning("%s ended with status %s, again in %.1f s", directory.name, status, wait)

    def _spawn(self, directory: Path, agent: _Agent, now: float) -> None:
        log = directory / "agent.log"
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(directory / "agent.log.1")
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment["CLOISTER_PARENT"] = str(os.getpid())
        environment["GLIBC_TUNABLES"] = MALLOC
        with log.open("ab") as out:
            log.chmod(0o600)
            agent.process = subprocess.Popen(  # noqa: S603  # our own program and directory
                [*self._argv, str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        agent.started_at_s = now

    def _end(self, agent: _Agent) -> None:
        if agent.process is None:
            return
        agent.process.terminate()
        try:
            agent.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            agent.process.kill()
            agent.process.wait()
        agent.process = None

    def _end_all(self) -> None:
        for agent in self._agents.values():
            if agent.process is not None:
                agent.process.terminate()
        for agent in self._agents.values():
            self._end(agent)

    # --- orders ---

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._stopping or listener.fileno() < 0:
                    return
                time.sleep(TURN_S)  # no free descriptor, say: the next one may succeed
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._answering = [t for t in self._answering if t.is_alive()] + [thread]
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            order = receive(sock)
            if order is None:
                return
            job = _Job(order)
            self._jobs.put(job)
            if not job.done.wait(STOP_TIMEOUT_S * 4):
                slow = Refusal(
                    "supervisor-busy", "the order takes too long; ask again", 5, retryable=True
                )
                job.answer = Answer(slow)
            try:
                sock.sendall(pack_frame(1, msgspec.msgpack.encode(job.answer)))
            except OSError:
                return

    def _do(self, job: _Job) -> None:
        try:
            job.answer = self._carry_out(job.order)
        except OrchestratorError as exc:
            job.answer = Answer(refusal_of(exc))
        except Exception as exc:  # noqa: BLE001  # an order must not end every HSM
            _log.exception("order %s", job.order.action)
            job.answer = Answer(
                Refusal("host", f"the host cannot do it: {exc}", 1, retryable=False)
            )
        finally:
            job.done.set()

    def _carry_out(self, order: Order) -> Answer:
        layout = self._layout
        if order.action == "status":
            return Answer(pid=os.getpid(), agents=self._status())
        if order.action == "stop":
            self._stop()
            return Answer(pid=os.getpid())
        check_id("hsm", order.hsm)  # an id is a path's last part here
        directory = layout.hsm_directory(order.host, order.hsm)
        agent = self._agents.setdefault(directory, _Agent())
        match order.action:
            case "create":
                layout.make_hsm(order.host, order.hsm, order.profile)
                (directory / "down").unlink(missing_ok=True)
                agent.next_at_s = 0.0
            case "destroy":
                self._end(agent)
                self._agents.pop(directory, None)
                layout.remove_hsm(order.host, order.hsm)
            case "kill":
                self._need(directory)
                publish(directory / "down", b"")
                if agent.process is not None:
                    agent.process.kill()
                    agent.process.wait()
                    agent.process = None
            case "start":
                self._need(directory)
                (directory / "down").unlink(missing_ok=True)
                agent.deaths, agent.next_at_s = 0, 0.0
            case _:
                raise UsageError(f"no such order: {order.action}")
        self._turn()
        return Answer(pid=os.getpid())

    def _need(self, directory: Path) -> None:
        if not directory.is_dir():
            raise NotFoundError("HSM", directory.name, "see `cloister lab status`")

    def _status(self) -> tuple[AgentStatus, ...]:
        zones = {host.name: host.zone for host in self._layout.hosts()}
        now, found = time.monotonic(), []
        for host, directory in self._layout.all_hsms():
            agent = self._agents.get(directory, _Agent())
            process = agent.process
            held = (directory / "down").exists()
            state = "running" if process else "down" if held else "restarting"
            uptime = now - agent.started_at_s if process else 0.0
            found.append(
                AgentStatus(
                    directory.name,
                    host,
                    zones[host],
                    state,
                    process.pid if process else None,
                    uptime,
                )
            )
        return tuple(found)

    # --- the control loop ---

    def _heal_for_ever(self) -> None:
        hosts = LabHosts(self._layout.home)
        turn = 0
        plane: ControlPlane | None = None
        automatic: AutomaticBackups | None = None
        while not self._stopping:
            time.sleep(HEAL_EVERY_S)
            turn += 1
            try:
                if plane is None or automatic is None:
                    plane = ControlPlane.open(self._layout.home, hosts)
                    automatic = AutomaticBackups(plane)
                for row in plane.records.clusters():
                    self._heal(plane, automatic, row.cluster_id)
                if turn % 60 == 0:
                    Backups(plane).purge()
            except OrchestratorError as exc:
                _log.warning("control loop: %s: %s", exc.code, exc)
            except Exception:  # noqa: BLE001  # the control loop outlives every bug
                _log.exception("control loop")
                if plane is not None:
                    plane.close()
                plane = None

    def _heal(self, plane: ControlPlane, automatic: AutomaticBackups, cluster: str) -> None:
        try:
            for done in plane.heal(cluster):
                _log.info("%s: %s", cluster, done)
            if backup := automatic.turn(cluster):
                _log.info("%s: made %s", cluster, backup)
        except OrchestratorError as exc:
            if not exc.retryable:
                _log.warning("%s: %s: %s", cluster, exc.code, exc)

    def _gossip_for_ever(self) -> None:
        """Spread counts of wrong passwords: apart from healing, which may wait for a dead HSM."""
        plane: ControlPlane | None = None
        while not self._stopping:
            time.sleep(GOSSIP_EVERY_S)
            try:
                plane = plane or ControlPlane.open(self._layout.home, LabHosts(self._layout.home))
                for row in plane.records.clusters():
                    plane.controller(row.cluster_id).gossip()
            except OrchestratorError as exc:
                _log.debug("gossip: %s", exc)
            except Exception:  # noqa: BLE001  # the loop outlives every bug
                _log.exception("gossip")


def run(home: Path, agent: tuple[str, ...] = (sys.executable, "-m", "orchestrator.agent")) -> int:
    """Run the lab's supervisor; return the exit status."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    os.umask(0o077)
    os.chdir("/")
    check_home(home)
    with Layout(home).lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.error("the lab in %s is up already", home)  # no traceback
            return EXIT_LOCKED
        Supervisor(home, agent).run()
    return 0
