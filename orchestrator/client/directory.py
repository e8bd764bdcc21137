"""Where a cluster's HSMs are and which anchor vouches for them: files that applications read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchestrator.client.balancer import Dial, Source
from orchestrator.client.connection import RpcConnection
from orchestrator.model.errors import MalformedError, NotFoundError, RefusedError
from orchestrator.model.ids import ClusterId


class Endpoint(msgspec.Struct, frozen=True):
    """Where an HSM listens."""

    hsm_id: str
    path: str


class Endpoints(msgspec.Struct, frozen=True):
    """`endpoints.json`: the HSMs of a cluster."""

    cluster_id: str
    hsms: tuple[Endpoint, ...]


def default_home() -> Path:
    """Return CLOISTER_HOME, or `cloister` in the XDG data directory."""
    if home := os.environ.get("CLOISTER_HOME"):
        return Path(home).absolute()
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data).absolute() / "cloister"


def cluster_directory(home: Path, cluster: str) -> Path:
    """Return the directory of a cluster's published files."""
    return home / "clusters" / cluster


def pick_cluster(home: Path, prefix: str | None) -> ClusterId:
    """Return the published cluster with this id or unique prefix, or the only one."""
    parent = home / "clusters"
    names = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    found = [name for name in names if prefix is None or name.startswith(prefix)]
    if not found:
        raise NotFoundError("cluster", prefix or f"in {home}", "see `cloister cluster list`")
    if len(found) > 1:
        raise RefusedError("ambiguous", f"several clusters match: {', '.join(found)}; name one")
    return ClusterId(found[0])


def read_anchor(home: Path, cluster: str) -> bytes:
    """Return the cluster's trust anchor (PEM)."""
    try:
        return (cluster_directory(home, cluster) / "anchor.pem").read_bytes()
    except FileNotFoundError as exc:
        raise NotFoundError(
            "trust anchor", f"of {cluster}", "initialise the cluster: `cloister cluster initialize`"
        ) from exc


def endpoints_source(home: Path, cluster: str) -> Source:
    """Return a source that reads `endpoints.json` again whenever it has changed."""
    path = cluster_directory(home, cluster) / "endpoints.json"
    known: tuple[int, dict[str, Dial]] = (-1, {})

    def source() -> Mapping[str, Dial]:
        nonlocal known
        try:
            changed = path.stat().st_mtime_ns
            if changed != known[0]:
                listed = msgspec.json.decode(path.read_bytes(), type=Endpoints)
                known = (changed, {e.hsm_id: _dial(Path(e.path)) for e in listed.hsms})
        except FileNotFoundError as exc:
            raise NotFoundError("cluster", cluster, "see `cloister cluster list`") from exc
        except msgspec.DecodeError as exc:
            raise MalformedError(f"{path} is damaged; `cloister cluster verify` writes it") from exc
        return known[1]

    return source


def _dial(path: Path) -> Dial:
    return lambda: RpcConnection(path)
