"""The rules that guard money: limits, prices, routes and accounts, as one digest. Pure.

Every gateway of a database has to go by the same rules. The active ones are a row; a gateway whose own are
others sets no marks until an operator has activated them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
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
            lines += _list_changes(before, after, where)
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after, where)
        elif before != after:
            lines.append(f"{where}: {_short(before)} -> {_short(after)}")
    return lines


def _list_changes(before: list[Any], after: list[Any], path: str) -> list[str]:
    """Return what differs between two lists: members are compared by content, then by name.

    What has no name is compared in order where as many members were removed as added.
    """
    gone, new = dict(enumerate(before)), dict(enumerate(after))
    kept = _take_pairs(gone, new, _short)
    edited = _take_pairs(gone, new, _name_of)
    unnamed = [[n for n, each in some.items() if _name_of(each) is None] for some in (gone, new)]
    if len(unnamed[0]) == len(unnamed[1]):
        for old, own in zip(*unnamed, strict=True):
            edited.append((old, own))
            del gone[old], new[own]
    places = [own for _, own in sorted(kept + edited)]
    lines = [] if places == sorted(places) else [f"{path}: in another order"]
    for n, each in gone.items():
        lines += changes({_name_of(each) or str(n): each}, {}, path)
    for n, each in new.items():
        lines += changes({}, {_name_of(each) or str(n): each}, path)
    for old, own in edited:
        name = _name_of(before[old]) or str(old)
        lines += changes({name: before[old]}, {name: after[own]}, path)
    return lines


def _take_pairs(
    gone: dict[int, Any], new: dict[int, Any], key: Callable[[Any], str | None]
) -> list[tuple[int, int]]:
    """Take out of two lists what has the same key in both; return the places of each pair."""
    pairs = []
    for place, old in list(gone.items()):
        wanted = key(old)
        found = next(
            (n for n, own in new.items() if wanted is not None and key(own) == wanted), None
        )
        if found is not None:
            pairs.append((place, found))
            del gone[place], new[found]
    return pairs


def _name_of(member: Any) -> str | None:
    return member.get("name") if isinstance(member, Mapping) else None


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
