"""Where a payout goes on when its custodian has refused it: the other routes, within the quoted terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.assets import EXACT, AssetRegistry
from gateway.config.routes import FailoverPolicy
from gateway.config.spending import SpendingLimitSettings
from gateway.errors import Refused
from gateway.execution.failover import Cause
from gateway.funds.reservations import Funds
from gateway.model import Account, AddressDestination, Payout
from gateway.pause import Pause
from gateway.planning import DraftTerms, Pricer
from gateway.quotes import FactsNow, fee_of
from gateway.routing.router import Asked, Choice, Facts, Router
from gateway.store.database import Columns, Tx

#: The causes for which a route may be left, by its setting.
_CAUSES = {
    FailoverPolicy.NEVER: frozenset[Cause](),
    FailoverPolicy.ON_REFUSAL: frozenset({Cause.REFUSED, Cause.NOT_SENT}),
    FailoverPolicy.ON_ABSENCE: frozenset(Cause),
}


class Failover:
    """Finds the next route of a payout; see `gateway.execution.failover.Onward`."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        router: Router,
        assets: AssetRegistry,
        facts: Facts,
        custodians: Mapping[str, Pricer],
        limits: Sequence[SpendingLimitSettings] = (),
        funds: Funds | None = None,
        rules: str | None = None,
    ) -> None:
        #: the digest of the limits and routes that it goes by
        self.rules = rules
        self._funds = funds
        self._router = router
        self._assets = assets
        self._facts = facts
        self._custodians = custodians
        self._limits = limits

    def allows(self, payout: Payout, cause: Cause) -> bool:
        """Return whether the route that a payout is on may be left for this cause.

        Only an address means the same payee at another custodian.
        """
        if not isinstance(payout.terms.destination, AddressDestination):
            return False
        policy = self._router.failover_of(self._asked(payout), payout.custodian, payout.account)
        return cause in _CAUSES[policy]

    def next(
        self, payout: Payout, tried: frozenset[str], pauses: Sequence[Pause]
    ) -> tuple[str, Account] | None:
        """Return the next custodian and account, the best one by the policy of the routes.

        One that has not had the payout, pays on the network that was promised, for no more than the quoted
        fee, is not paused, answers, and is not known to lack the amount. None that a limit counts or caps
        by itself: what is spent was counted where the payout was accepted.
        """
        asked = self._asked(payout)
        facts = FactsNow(self._facts, asked.mode, pauses, to_be_sent=True)
        try:
            candidates = self._router.decide(asked, facts, self._checking(payout)).candidates
        except Refused:
            return None
        for each in candidates:
            if each.route.custodian not in tried and self._fits(payout, each):
                return each.route.custodian, each.account
        return None

    async def take_along(
        self, tx: Tx, item: Columns, payout: Payout, custodian: str, account: Account
    ) -> bool:
        """Move what is reserved for a payout to another account; False: that does not cover it.

        Limits are counted once, where the payout was accepted.
        """
        if self._funds is None:
            return True
        return await self._funds.move(tx, item, payout.terms, custodian, account)

    def _asked(self, payout: Payout) -> Asked:
        terms = payout.terms
        return Asked(
            payout.org,
            "live" if payout.livemode else "test",
            terms.destination,
            self._assets.find(terms.asset),
            terms.user_sends,
            terms.route.to_network,
        )

    def _fits(self, payout: Payout, choice: Choice) -> bool:
        """Whether a route pays within the quoted terms."""
        terms = payout.terms
        custodian, account = choice.route.custodian, choice.account
        return (
            choice.route.to_network == terms.route.to_network
            and EXACT.compare(choice.fee, fee_of(terms)) <= 0
            and not any(_limited(each, custodian, account) for each in self._limits)
            and self._facts.shortage(custodian, account, terms.asset, terms.recipient_gets) is None
        )

    def _checking(self, payout: Payout) -> Callable[[Choice], str | None]:
        """Return what asks a custodian whether it could ever pay what was promised."""
        terms = payout.terms

        def check(choice: Choice) -> str | None:
            draft = DraftTerms(
                asset=terms.asset,
                network=terms.route.to_network,
                decimals=self._assets.find(terms.asset).decimals_on(terms.route.to_network),
                amount=terms.recipient_gets,
                source=choice.account,
                destination=terms.destination,
                reference=payout.reference,
            )
            return self._custodians[choice.route.custodian].check(draft)

        return check


def _limited(limit: SpendingLimitSettings, custodian: str, account: Account) -> bool:
    """Whether a limit is about this custodian or account, so that what goes there would have to be counted."""
    return "account" in limit.each or limit.custodian == custodian or limit.account == account.id
