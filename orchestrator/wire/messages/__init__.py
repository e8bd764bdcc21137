"""Requests to an HSM and its replies: tagged msgpack arrays, nothing unknown let through."""

from orchestrator.wire.messages.binding import *  # noqa: F403  # the package is its modules
from orchestrator.wire.messages.changes import *  # noqa: F403
from orchestrator.wire.messages.joining import *  # noqa: F403
from orchestrator.wire.messages.key_use import *  # noqa: F403
from orchestrator.wire.messages.limits import *  # noqa: F403
from orchestrator.wire.messages.replies import *  # noqa: F403
from orchestrator.wire.messages.requests import *  # noqa: F403
from orchestrator.wire.messages.signed import *  # noqa: F403
