"""Keys and users between clones, with a log-in at both: the HSMs seal and check, this carries."""

from __future__ import annotations

from orchestrator.client.connection import expect
from orchestrator.client.session import Session
from orchestrator.control.controller import Ask, Controller, Outcome
from orchestrator.control.views import ChangeReport
from orchestrator.model.entries import Credential
from orchestrator.model.errors import NotFoundError
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m


class Replication:
    """From one cluster to a clone of it. `request` repeats an earlier request by its id."""

    def __init__(self, source: Session, controller: Controller, destination: Session) -> None:
        """Use a log-in at the source, and controller and log-in of the destination."""
        self._source, self._controller, self._destination = source, controller, destination

    @property
    def cluster(self) -> str:
        """The clone that is copied to."""
        return self._controller.cluster

    def replicate_key(self, ref: int, *, request: str | None = None) -> tuple[ChangeReport, Key]:
        """Give the clone a token key; its owner and all whom it is shared with must be there.

        The key has a reference of the clone's own there.
        """
        source, cluster = self._source, self.cluster

        def ask(hsm: str) -> m.ChangeRequest:
            sealed = source.seal_key(ref, cluster, self._proof_of(hsm))
            return m.TakeReplica(source.balancer.cluster, sealed)

        outcome = self._take(ask, request)
        if len(outcome.keys) != 1:
            raise NotFoundError("key", f"of request {outcome.report.request}", "see the key list")
        return outcome.report, outcome.keys[0]

    def replicate_user(
        self,
        name: str,
        role: Role,
        *,
        approval: TokenFile | None = None,
        request: str | None = None,
    ) -> ChangeReport:
        """Give the clone a user, with password and registered keys; its quorum approves.

        Raises:
            RemoteError: `user-inconsistent`, the clone has a user of this name in another state.
        """
        source, cluster = self._source, self.cluster
        name = parse_user_name(name)

        def ask(hsm: str) -> m.ChangeRequest:
            sealed = source.seal_user(name, role, cluster, self._proof_of(hsm))
            return m.TakeReplica(source.balancer.cluster, sealed, of_user=True)

        return self._take(ask, request, approval).report

    def _proof_of(self, hsm: str) -> Credential:
        """Return what the source's HSM checks: nothing else tells it whom it seals to."""
        welcome = expect(self._controller.roster.call(hsm, m.Hello()), m.Welcome)
        if welcome.credential is None:
            raise NotFoundError("credential", f"of {hsm}")
        return welcome.credential

    def _take(self, ask: Ask, request: str | None, approval: TokenFile | None = None) -> Outcome:
        outcome = self._controller.change(
            ask,
            ticket=self._destination.ticket(),
            request=request,
            approval=approval.approval if approval else None,
        )
        self._destination.heard(outcome.report.seq)
        return outcome
