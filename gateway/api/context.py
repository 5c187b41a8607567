"""What the API is built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.adapter import Capabilities
from gateway.batches.elsewhere import FileChecks
from gateway.batches.service import Batches
from gateway.calling import Calling
from gateway.config.settings import Settings
from gateway.execution.actions import Note
from gateway.funds.reservations import Funds
from gateway.metrics import Metrics
from gateway.model import Payout
from gateway.payouts import Payouts
from gateway.quotes import Quotes
from gateway.routing.router import Router
from gateway.rules import OwnRules
from gateway.runtime import Runtime
from gateway.store.database import Database
from gateway.store.state_file import StateFile
from gateway.vault import Vault
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.fair_queue import Ready
from gateway.webhooks.replay import Replays
from gateway.webhooks.sender import DeliveryResult, Target


class Custodian(Protocol):
    """A custodian instance as the API uses it."""

    name: str
    adapter_name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check that a webhook is the custodian's."""


class Inbox(Protocol):
    """Where custodians' webhooks go."""

    async def receive(self, custodian: str, body: bytes) -> None:
        """Apply a verified webhook and keep it."""


class Actions(Protocol):
    """What people do to a payout under way."""

    async def confirm(
        self,
        payout: Payout,
        action: int,
        answer: Mapping[str, Any],
        filled: Sequence[str] = (),
        *,
        note: Note | None = None,
    ) -> None:
        """Answer an action."""

    async def cancel(self, payout: Payout, *, note: Note | None = None) -> None:
        """Cancel."""


class Tester(Protocol):
    """What sends test events, in turn with all other deliveries."""

    async def test(
        self, endpoint: Ready, target: Target, event_id: str, kind: str, body: bytes
    ) -> DeliveryResult:
        """Post an event once; it is not in the store."""


@dataclass(frozen=True)
class ApiContext:
    """Everything a request may need."""

    #: this process, in table `gateways` and in the claims of idempotency keys
    gateway_id: str
    settings: Settings
    db: Database
    payouts: Payouts
    actions: Actions
    inbox: Inbox
    batches: Batches
    quotes: Quotes
    endpoints: Endpoints
    replays: Replays
    tester: Tester
    router: Router
    custodians: Mapping[str, Custodian]
    vault: Vault
    runtime: Runtime
    metrics: Metrics
    wake: Callable[[str], None]
    #: which orgs call now
    calling: Calling
    ready: Callable[[], bool]
    state_file: StateFile
    #: the limits and routes that this process goes by
    rules: OwnRules | None = None
    #: the balances of accounts, and what is reserved of them
    funds: Funds | None = None
    #: the process that checks files; None: they are checked in this one
    file_checks: FileChecks | None = None
    #: whether a loop of this process has died
    broken: Callable[[], bool] = lambda: False
    #: instances that have trouble, each with what it is
    degraded: Callable[[], Mapping[str, str]] = dict

    @property
    def own_rules(self) -> str | None:
        """The digest of the limits and routes that this process goes by."""
        return None if self.rules is None else self.rules.digest
