"""Entries of a cluster's ledger: header, body, and every kind of change.

Invariants: the bytes that were signed are the bytes stored and sent; an entry's hash covers
header and signature; membership is in clear, everything else sealed under the seal key.
"""

from orchestrator.model.entries.body import *  # noqa: F403  # the package is its modules
from orchestrator.model.entries.cluster import *  # noqa: F403
from orchestrator.model.entries.entry import *  # noqa: F403
from orchestrator.model.entries.keys import *  # noqa: F403
from orchestrator.model.entries.quorum import *  # noqa: F403
from orchestrator.model.entries.record import *  # noqa: F403
from orchestrator.model.entries.users import *  # noqa: F403
