"""`connect`: the public way to a cluster."""

from __future__ import annotations

from pathlib import Path

from orchestrator.client.balancer import Balancer
from orchestrator.client.directory import (
    default_home,
    endpoints_source,
    pick_cluster,
    read_anchor,
)
from orchestrator.client.session import Session
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.wire.system_clock import SystemClock


def connect(
    user: str,
    password: bytes,
    *,
    cluster: str | None = None,
    role: Role = Role.CRYPTO_USER,
    home: Path | None = None,
    trust_anchor: bytes | None = None,
) -> Session:
    """Log in to a cluster and return a session that balances over its HSMs.

    Args:
        user: the name.
        password: goes to an HSM sealed, after its chain to the trust anchor was checked.
        cluster: id or unique prefix; None takes the only cluster there is.
        role: crypto user, or admin.
        home: where the cluster's files are; default as the command line's.
        trust_anchor: PEM; None takes the copy that `cluster initialize` left in the home.

    Raises:
        LoginFailedError, UserLockedError: as RemoteError with exit status 4.
        UnavailableError: no HSM answers.
        TamperedError: an HSM shows no chain to the anchor; no password was sent.
    """
    home = home or default_home()
    chosen = pick_cluster(home, cluster)
    anchor = trust_anchor or read_anchor(home, chosen)
    clock = SystemClock()
    balancer = Balancer(chosen, anchor, endpoints_source(home, chosen), clock)
    try:
        return Session(balancer, clock, role, parse_user_name(user)).login(password)
    except BaseException:
        balancer.close()
        raise
