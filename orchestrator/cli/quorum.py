"""`cloister quorum`: approvals by several people."""

from __future__ import annotations

from orchestrator.cli.command import group
from orchestrator.cli.offered import offer

app = group("quorum", "Approvals by several people (M of N).")
token_sign = group("token-sign", "Tokens that approvers sign, as CloudHSM has them.", app)
for _name in ("generate", "list", "list-quorum-values", "set-quorum-value", "delete"):
    offer(token_sign, f"quorum token-sign {_name}")
