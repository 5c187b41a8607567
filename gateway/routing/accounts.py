"""The configured accounts from which payouts may be paid. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.settings import Settings
from gateway.errors import Refused
from gateway.model import Account

_NONE: frozenset[str] = frozenset()


class PinnedAccounts:
    """Checks that what a quote or a batch has pinned is still configured when it is executed.

    It goes by the configuration and not by the adapters that loaded: if an adapter is broken here,
    another gateway with the same rules pays.
    """

    def __init__(self, settings: Settings) -> None:
        self._modes = {name: each.modes for name, each in settings.custodians.items()}
        #: by custodian, account type and id: the orgs that may use the account; None means every org
        self._orgs: dict[tuple[str, str, str], frozenset[str] | None] = {}
        for route in settings.routes:
            self._add(route.custodian, route.account.type, route.account.id, route.orgs)
        for name, accounts in settings.accounts.items():
            for each in accounts:
                self._add(name, each.type, each.id, each.orgs)

    def _add(self, custodian: str, kind: str, account: str, orgs: Iterable[str] | None) -> None:
        key = custodian, kind, account
        known = self._orgs.get(key, _NONE)
        self._orgs[key] = None if known is None or orgs is None else known.union(orgs)

    def check(self, org: str, mode: str, custodian: str, account: Account) -> None:
        """Refuse if an org's payouts of a mode may not be paid from an account: `route_unavailable`."""
        orgs = self._orgs.get((custodian, account.type, account.id), _NONE)
        if mode in self._modes.get(custodian, ()) and (orgs is None or org in orgs):
            return
        detail = (
            f"{account.type} {account.id} at {custodian} is no longer configured for these payouts. "
            "Nothing was executed. Request a new quote, or create the batch again with another source."
        )
        raise Refused("route_unavailable", detail)
