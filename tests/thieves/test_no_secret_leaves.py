"""The demo, recorded: no key, PIN, password or share is in any file, argument, log or message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from shamir_mnemonic import Share

from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.sealed.box import open_box
from orchestrator.sealed.recovery import combine_shares, recovery_key
from orchestrator.sealed.snapshot import ebk_info, parse_snapshot
from tests.thieves import capture, planted, search
from tests.thieves.loot import secrets_of, steal
from tests.thieves.search import Hit, Searcher

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]


@dataclass
class Run:
    """A recorded demo: what was seen, and what must not have been."""

    directory: Path
    places: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.directory / "home"

    def look(self, step: str, tracer: int) -> None:
        """Note what can be read now."""
        self.steps.append(step)
        found = search.files_below(self.directory)
        for pid in traced_by(tracer):
            found |= search.process(pid)
        self.places |= {f"{step}: {place}": content for place, content in found.items()}
        for _, directory in Layout(self.home).all_hsms():
            pin = directory / "token" / "pin"
            self.secrets[f"PIN of {directory.name}"] = pin.read_bytes()

    def rob(self, step: str) -> None:
        """Take an HSM down, read its directory with the PIN, and let it go on."""
        host, directory = Layout(self.home).all_hsms()[0]
        lab.kill(self.home, directory.name)
        loot = steal(directory, self.directory.with_name(f"scratch {step}"))
        lab.start(self.home, directory.name)
        LabHosts(self.home).wait(host, directory.name)
        self.secrets |= secrets_of(loot)

    def learn(self) -> None:
        """Note what the client alone knew, and what the exported backup was sealed with."""
        known = json.loads((self.directory / "known.json").read_text())
        for name, password in known["passwords"].items():
            self.secrets[f"password of {name}"] = password.encode()
        for number, share in enumerate(known["shares"], start=1):
            self.secrets[f"share {number}"] = share.encode()
            self.secrets[f"value of share {number}"] = Share.from_mnemonic(share).value
        seed = combine_shares(known["shares"][:3])
        scalar = recovery_key(seed).private_numbers().private_value
        self.secrets |= {"recovery seed": seed, "recovery key": scalar.to_bytes(48, "big")}
        number = int.from_bytes(self.secrets["backup key"], "big")
        backup_key = ec.derive_private_key(number, ec.SECP256R1())
        manifest = parse_snapshot((self.directory / "exported.backup").read_bytes()).manifest
        info = ebk_info("backup", manifest.id, manifest.cluster)

        def agree(point: bytes) -> bytes:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            return backup_key.exchange(ec.ECDH(), peer)

        box = manifest.wrapped_ebk
        self.secrets["key of the backup"] = open_box(manifest.backup_public, agree, box, info)


def traced_by(tracer: int) -> Iterator[int]:
    """Yield the processes that the recorder follows."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"TracerPid:\t{tracer}\n" in status.read_text():
                yield int(status.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


def follow(made: Run, watched: subprocess.Popen[str]) -> None:
    """Look after every step, until the demo has ended well."""
    assert watched.stdin is not None
    assert watched.stdout is not None
    while step := watched.stdout.readline().strip():
        made.look(step, watched.pid)
        if step in {"before removal", "back_up", "audit"}:
            made.rob(step)
        watched.stdin.write("\n")
        watched.stdin.flush()
    assert watched.wait(30) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo and a removal, recorded; robbed thrice, once for each epoch of its secrets."""
    parent = tmp_path_factory.mktemp("recorded")
    made = Run(parent / "run")
    trace = parent / "trace"
    made.directory.mkdir()
    trace.mkdir()
    argv = [sys.executable, "-m", "tests.thieves.demo_driver", str(made.directory)]
    command = capture.command(trace, argv)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as watched:
        try:
            follow(made, watched)
        finally:
            # The recorder last: whom it leaves behind can write and send no more.
            for pid in traced_by(watched.pid):
                os.kill(pid, signal.SIGKILL)
    made.learn()
    made.places |= capture.read(trace)
    return made


def is_its_own(place: str) -> bool:
    """Tell whether a place is a file whose whole point is the secret in it."""
    return Path(place.partition(" by ")[0]).name in {"pin", "known.json"}


def test_no_secret_is_anywhere(run: Run) -> None:
    hits = Searcher(run.secrets).search(run.places)
    assert [hit for hit in hits if not is_its_own(hit.place)] == []


def test_all_that_is_secret_was_looked_for(run: Run) -> None:
    of_clusters = {name.split(" of cluster-")[0] for name in run.secrets if "epoch" in name}
    assert of_clusters == {"seal key", "ticket secret"}
    assert sum("seal key" in name for name in run.secrets) == 3
    assert sum("PIN" in name for name in run.secrets) == 4
    wanted = {
        "masking key", "certificate key d", "backup key", "key of the backup", "recovery key",
        "rsa key demo-rsa d", "ec key demo-ec", "aes key demo-aes", "generic-secret key generic",
        "share 5", "password of cu2", "password hash of cu2",
    }  # fmt: skip
    assert wanted <= run.secrets.keys()


def test_the_demo_was_seen_from_beginning_to_end(run: Run) -> None:
    assert run.steps[0] == "planted"
    assert run.steps[-2:] == ["audit", "end"]
    assert len(run.steps) == 16 + len({"planted", "before removal", "end"})
    # what is no secret, and known to travel and to be written, is where it should be
    labels = Searcher({"label": b"made-while-one-was-down"}).search(run.places)
    threads = {hit.place.rpartition(" ")[2] for hit in labels if hit.place.startswith("sent to")}
    assert len(threads) >= 2  # the client asked, an HSM answered
    started = b"".join(run.places[p] for p in run.places if p.startswith("argv and environ"))
    for program in (b"tests.thieves.demo_driver", b"orchestrator.lab", b"orchestrator.agent"):
        assert program in started
    written = {Path(p.partition(" by ")[0]).name for p in run.places if p.startswith("written to")}
    assert {"state.db-wal", "control.db-wal", "agent.log", "supervisor.log", "pin"} <= written
    # a PIN is seen where it belongs: as it was written, and as it then lies there
    pins = {name: secret for name, secret in run.secrets.items() if name.startswith("PIN")}
    hits = Searcher(pins).search(run.places)
    assert {hit.secret for hit in hits if hit.place.startswith("written to")} == pins.keys()
    assert {hit.secret for hit in hits if hit.place.startswith("keys: ")} < pins.keys()


@pytest.fixture(scope="module")
def found(run: Run) -> list[Hit]:
    """What a search for the planted secrets finds."""
    secrets = {f"{place}, {form}": planted.value(place, form) for place, form in planted.CASES}
    return Searcher(secrets).search(run.places)


@pytest.mark.parametrize(("place", "form"), planted.CASES)
def test_a_planted_secret_is_found(found: list[Hit], place: str, form: str) -> None:
    where = [hit.place for hit in found if hit.secret == f"{place}, {form}"]
    assert [at for at in where if planted.PLACES[place] in at] != []
