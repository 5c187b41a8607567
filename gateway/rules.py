"""The rules that guard money: limits, prices, routes and accounts, as one digest. Pure.

Every gateway of a database has to go by the same rules. The active ones are a row; a gateway whose own are
others sets no marks until an operator has activated them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.config.settings import Settings

#: Settings that are younger than the digest, with their defaults.
_ADDED_TO_ROUTES: Mapping[str, Any] = {
    "name": None,
    "min_amount": None,
    "max_amount": None,
    "priority": 0,
    "policy": "fixed",
    "failover": "never",
    "on_shortage": "refuse",
}
_ADDED_TO_PRICES: Mapping[str, Any] = {"as_of": None, "source": "table"}
#: What a gateway says that goes by other rules.
OTHER_RULES = (
    "the limits and routes in this gateway's configuration are not the active ones: see "
    "payout-gateway rules show. Next: payout-gateway rules activate, or start it with the active ones"
)


def rules_document(settings: Settings) -> dict[str, Any]:
    """Return the rules of a configuration. Nothing of a secret is in it.

    The order of routes counts: the first that fits is taken. Of an instance only its adapter and its modes
    are rules; its credentials and address may change.
    """
    whole = settings.model_dump(
        mode="json", include={"spending", "prices", "routes", "accounts", "assets"}
    )
    whole["custodians"] = {
        name: {"adapter": each.adapter, "modes": sorted(each.modes)}
        for name, each in sorted(settings.custodians.items())
    }
    for name, custodian in settings.custodians.items():
        if custodian.reserve:
            whole["custodians"][name]["reserve"] = True
    whole["submit_within_s"] = settings.engine.submit_within_s
    accounts = [each for some in whole["accounts"].values() for each in some]
    # What nobody has set is in no document, so that a new setting changes no digest.
    _leave_out(whole["routes"], _ADDED_TO_ROUTES)
    _leave_out([whole["prices"]], _ADDED_TO_PRICES)
    _leave_out(accounts, {"reserve": None})
    return whole


def _leave_out(sections: Iterable[dict[str, Any]], added: Mapping[str, Any]) -> None:
    """Leave out of sections what is younger than the digest and has its default."""
    for section in sections:
        for name, usual in added.items():
            if section[name] == usual:
                del section[name]


def rules_text(settings: Settings) -> str:
    """Return the rules of a configuration as they are stored."""
    return json.dumps(rules_document(settings), sort_keys=True, separators=(",", ":"))


def rules_digest(text: str) -> str:
    """Return the digest of rules."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(active: Mapping[str, Any], own: Mapping[str, Any], path: str = "") -> list[str]:
    """Return what differs between two documents of rules, a line per value."""
    lines = []
    for name in sorted(active.keys() | own.keys()):
        before, after = active.get(name), own.get(name)
        where = f"{path}.{name}" if path else name
        if isinstance(before, list) and isinstance(after, list):
            before = dict(enumerate_texts(before))
            after = dict(enumerate_texts(after))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after, where)
        elif before != after:
            lines.append(f"{where}: {_short(before)} -> {_short(after)}")
    return lines


def enumerate_texts(values: list[Any]) -> list[tuple[str, Any]]:
    """Return the members of a list by their places, as texts."""
    return [(str(place), each) for place, each in enumerate(values)]


def _short(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, sort_keys=True)


class OwnRules:
    """The rules of this process, and whether they are the active ones as far as it knows."""

    def __init__(self, settings: Settings) -> None:
        self.text = rules_text(settings)
        self.digest = rules_digest(self.text)
        #: as of the last look, at most a few seconds ago: the gate looks again at every mark
        self.active = True

    def note(self, active_digest: str | None) -> None:
        """Note which rules are active; None: nobody has activated any."""
        self.active = active_digest in {None, self.digest}
