"""The Dfns adapter: wallet transfers to an address, off-ramp payouts to a bank account.

Each way has its own module (`transfers`, `payouts`); the destination selects one. Source: dfns protocol
notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from typing import ClassVar

from pydantic import BaseModel

from adapters.dfns import webhook
from adapters.dfns.balances import balances_of, network_of
from adapters.dfns.client import Client
from adapters.dfns.payouts import Payouts
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.signing import dump, load_private_key
from adapters.dfns.terms import quote_body, why_not
from adapters.dfns.transfers import Transfers, rejected
from gateway.adapter import (
    Absent,
    Account,
    Adapter,
    Balance,
    BankAccountDestination,
    CannotLook,
    Capabilities,
    KeySemantics,
    Notice,
    NotSent,
    Offer,
    Order,
    Rate,
    Report,
    Terms,
    Tools,
)

#: The digits of an indicative rate; more would be noise.
_RATE_STEP = Decimal("0.00000001")


def rate_of(settings: DfnsSettings) -> Rate:
    """Return the rate of the organisation: the configured number in any minute, and a tenth of it at once.

    A 429 is one of the documented errors (dfns protocol notes, §4): the call was not processed.
    """
    whole = settings.requests_per_minute
    burst = max(1, whole // 10)
    return Rate((whole - burst) / 60, burst, refusal_proves_unsent=True)


class Dfns(Adapter[DfnsSettings]):
    """One Dfns organisation."""

    name: ClassVar[str] = "dfns"
    Settings: ClassVar[type[BaseModel]] = DfnsSettings
    capabilities = Capabilities(
        destination_types=frozenset({"address", "bank_account"}),
        source_types=frozenset({"WALLET"}),
        cancel=True,
        quotes=True,
        webhooks=True,
        keys=KeySemantics(
            life_s=None,
            max_length=50,
            shared_by_credentials=True,
            look_up=True,
            # A repeat is safe for a transfer but not for an off-ramp's Confirm; one value must serve
            # both. `CannotLook` says it of a transfer.
            repeat_is_safe=False,
        ),
        # The life of a user action token; the setting `user_action_life_s` overrides it.
        call_life_s=900,
        visibility_s=60,
        # Payouts and transfers are looked up by the ids that Dfns assigned, which an older copy may
        # lack.
        finds_lost_calls=False,
        polling_s=(1, 2, 4, 8, 15, 30, 60, 120, 300),
    )
    #: The service account's token determines whose wallets and payouts are read; the key only signs.
    account_settings = ("base_url", "auth_token")

    def __init__(self, settings: DfnsSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        self.capabilities = replace(
            type(self).capabilities,
            call_life_s=settings.user_action_life_s,
            rate=rate_of(settings),
        )
        client = Client(
            settings.base_url,
            settings.auth_token.get_secret_value(),
            settings.credential_id,
            load_private_key(settings.private_key.get_secret_value()),
            settings.timeout_s,
            tools,
        )
        self._client = client
        self._payouts = Payouts(settings, client, tools)
        self._transfers = Transfers(settings, client, tools)

    async def submit(self, order: Order) -> Report:
        """Do the next thing for the order."""
        fault = None if order.notes else self.check(order)
        if fault is not None:
            raise rejected(fault)
        return await self._way(order).submit(order)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Ask how the order stands."""
        return await self._way(order).fetch(order)

    async def cancel(self, order: Order) -> Report:
        """Cancel an off-ramp that is not confirmed. A transfer cannot be called back."""
        if isinstance(order.destination, BankAccountDestination):
            return await self._payouts.cancel(order)
        return await super().cancel(order)

    def check(self, terms: Terms) -> str | None:
        """Return why these terms can never be paid, or None."""
        return why_not(self.settings, self.tools.assets, terms)

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return the present offers of the off-ramp's provider. They are indicative, because Dfns locks no rate."""
        if not isinstance(terms.destination, BankAccountDestination):
            return ()
        body = dump(quote_body(self.settings, self.tools.assets, terms))
        answer = await self._client.post("/payouts/quote", body)
        if not answer.ok:
            raise NotSent(f"quote: {answer.words()}")
        wanted = terms.destination.fiat_currency
        rates = []
        for each in answer.json.get("quotes") or ():
            offer = each.get("offer") if isinstance(each, dict) else None
            if isinstance(offer, dict) and offer.get("fiatCurrency") == wanted:
                # `amount` is net of fees (dfns protocol notes, §2), and a JSON number.
                rate = Decimal(str(offer.get("amount", 0))) / terms.amount
                rates.append(Offer(rate.quantize(_RATE_STEP, rounding=ROUND_DOWN)))
        return rates

    async def identity(self) -> str:
        """Return the configured wallets, each read with this token.

        A wallet belongs to one organisation, and another one's is answered 404.
        """
        wallets = sorted(self.settings.wallets.values())
        for wallet in wallets:
            answer = await self._client.get(f"/wallets/{wallet}/transfers?limit=1")
            if not answer.ok or not isinstance(answer.json.get("items"), list):
                raise NotSent(f"wallet {wallet}: {answer.words()}")
        return "wallets " + " ".join(wallets)

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Return what a configured wallet holds on its chain. Raises NotSent, Unsupported."""
        network = network_of(self.settings, account)
        answer = await self._client.get(f"/wallets/{account.id}/assets")
        if not answer.ok:
            raise NotSent(f"balances: {answer.words()}")
        now = self.tools.clock.now()
        return balances_of(account, network, answer.json, self.tools.assets, now)

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook's HMAC and age."""
        secret = self.settings.webhook_secret
        told = None if secret is None else secret.get_secret_value()
        webhook.verify(told, self.tools.clock, headers, body)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Turn an event into a notice."""
        return webhook.parse(body)

    def _way(self, order: Order) -> Payouts | Transfers:
        is_bank = isinstance(order.destination, BankAccountDestination)
        return self._payouts if is_bank else self._transfers
