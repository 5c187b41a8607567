"""The kit: an author subclasses one class, declares the custodian, and inherits its tests.

    class TestAcme(AdapterKit):
        adapter = Acme
        terms = {"amount": Decimal(43), "destination": ..., "source": account("MAIN", "ACCOUNT")}
        moving = "transfer"
        looking = ("status",)
        lives = (Life("delivered"), Life("refused", {"amount": Decimal("5.000402")}, ...))
        refusals = (Refusal("no funds", {"amount": Decimal(2_000_000)}, code=...),)

Each test is about one topic; `gateway.testing.declared.proves` names it, and the capability matrix
says which topics the kit has shown.
"""

from __future__ import annotations

from gateway.testing.kit_calls import CallTests
from gateway.testing.kit_optional import OptionalTests
from gateway.testing.kit_static import StaticTests
from gateway.testing.kit_webhooks import WebhookTests
from gateway.testing.kit_whole import WholeTests


class AdapterKit(StaticTests, CallTests, OptionalTests, WebhookTests, WholeTests):
    """Every test of an adapter."""
