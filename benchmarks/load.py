"""An application: threads that sign through the client library, in a process of its own.

`python -m benchmarks.load HOME CLUSTER KIND THREADS SECONDS HSM...`; the password comes on
stdin; prints an empty line when it begins, and the figures as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.direct import DIGEST
from benchmarks.timing import Figures, measure
from orchestrator.client.balancer import Balancer
from orchestrator.client.directory import endpoints_source, read_anchor
from orchestrator.client.session import Session
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme
from orchestrator.model.roles import Role
from orchestrator.wire.system_clock import SystemClock


def main(
    home: Path, cluster: str, kind: str, threads: int, seconds: float, hsms: list[str]
) -> Figures:
    """Sign from `threads` threads that share one session; return the figures."""
    clock = SystemClock()
    listed = endpoints_source(home, cluster)
    source = lambda: {hsm: dial for hsm, dial in listed().items() if hsm in hsms}  # noqa: E731
    balancer = Balancer(cluster, read_anchor(home, cluster), source, clock)
    with Session(balancer, clock, Role.CRYPTO_USER, "user") as session:
        session.login(sys.stdin.readline().strip().encode())
        key = session.key(kind)
        scheme = SignScheme.RSA_PKCS if kind == "rsa" else SignScheme.ECDSA
        mechanism = SignMechanism(scheme, HashFunction.SHA256)
        action = lambda: session.sign(key.ref, mechanism, DIGEST)  # noqa: E731
        sys.stdout.write("\n")
        sys.stdout.flush()
        result = measure([action] * threads, seconds)
        result["retries"] = session.statistics.retries
        return result


if __name__ == "__main__":
    given = sys.argv[1:]
    figures = main(Path(given[0]), given[1], given[2], int(given[3]), float(given[4]), given[5:])
    sys.stdout.write(json.dumps(figures))
