"""A payout's story as a timeline that describes each thing that happened. Pure: turns a story into entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from gateway.model import Payout, read_time
from gateway.panel.render import money, short, short_id, span
from gateway.panel.words import ACTS, reason_of
from gateway.views import EVENT_OF, EVENT_TYPES

MONEY, CUSTODIAN, WEBHOOKS = "money", "custodian", "webhooks"
#: The groups that can be chosen, with their names.
GROUPS: Mapping[str, str] = {MONEY: "Money", CUSTODIAN: "Custodian", WEBHOOKS: "Webhooks"}
#: The most rows that an entry shows in full; if there are more, it shows the first three.
MOST_ROWS, FIRST_ROWS = 11, 3


@dataclass(frozen=True)
class Call:
    """A row under an entry: the call, the answer and the duration."""

    what: str
    answer: str
    took: str = ""
    #: what can be sent again
    event_id: str = ""
    endpoint_id: str = ""


@dataclass(frozen=True)
class Entry:
    """One thing that happened."""

    at: datetime
    icon: str
    kind: str
    title: str
    group: str
    meta: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()


def entries(story: Mapping[str, Any], payout: Payout, *, everything: bool) -> list[Entry]:
    """Return the entries, oldest first.

    `everything` adds what only operators of the whole gateway may see: evidence that names accounts,
    and details that may name other orgs.
    """
    steps = list(_statuses(story, payout))
    found = [
        *_beginning(payout, story["decision"], everything=everything),
        *steps[:1],
        *_executions(story, everything=everything),
        # The result of a call comes after the call, even if both have the same date.
        *steps[1:],
        *_other_events(story),
        *_webhooks(story, payout),
        *_acts(story, everything=everything),
        *_returns(story),
        *_attention(story, everything=everything),
    ]
    return sorted(found, key=lambda each: each.at)


def _beginning(
    payout: Payout, decision: Mapping[str, Any] | None, *, everything: bool
) -> Iterator[Entry]:
    terms = payout.terms
    fee = (
        terms.user_sends - terms.recipient_gets
        if terms.send_asset == terms.recipient_asset
        else None
    )
    text = f"{money(terms.user_sends)} {terms.send_asset} sent"
    if fee is not None and fee >= 0:
        text += f", {money(fee)} {terms.send_asset} fee" if fee else ", no fee"
    text += f", {money(terms.recipient_gets)} {terms.recipient_asset} received. "
    text += "Firm price." if terms.price == "firm" else "Indicative price."
    if terms.quote_id is None:
        meta, title = short_id(payout.batch_id or ""), "Accepted with a batch"
    else:
        meta, title = short_id(terms.quote_id), "Quote accepted"
    yield Entry(payout.created_at, "doc", "mute", title, MONEY, meta, text)
    route = terms.route
    networks = " to ".join(
        dict.fromkeys(each for each in (route.from_network, route.to_network) if each)
    )
    text = f"From {payout.account.type} {short(payout.account.id)}"
    text += f", {networks}. " if networks else ". "
    text += f"Usual time: {span(route.estimated_seconds)}."
    title, meta = f"Route chosen: {route.custodian}", ""
    calls: tuple[Call, ...] = ()
    if decision is not None:
        meta = "asked for" if decision["asked_for"] else f"policy: {decision['policy']}"
        calls = tuple(_others(decision, everything=everything))
        if not calls:
            text += " There was no other route for this payment."
    yield Entry(payout.created_at, "route", "mute", title, CUSTODIAN, meta, text, calls)


def _others(decision: Mapping[str, Any], *, everything: bool) -> Iterator[Call]:
    """Yield the routes that were not taken, each with the reason; possible routes come first."""
    taken, *possible = decision["candidates"]
    for each in possible:
        more = Decimal(each["fee"]) - Decimal(taken["fee"])
        slower = each["estimated_seconds"] - taken["estimated_seconds"]
        words = (
            f"fee {money(abs(more))} {'higher' if more > 0 else 'lower'}" if more else "same fee"
        )
        if slower:
            words += f", {span(abs(slower))} {'slower' if slower > 0 else 'faster'}"
        yield Call(_way(each), f"possible: {words}")
    for each in decision["left_out"]:
        # An org must not see which routes other orgs have.
        if everything or each["reason"] != "org":
            yield Call(_way(each), f"left out: {each['detail'].rstrip('.')}")


def _way(route: Mapping[str, Any]) -> str:
    """Return the label of a route: its custodian, and its own name if it has one."""
    name, custodian = str(route["route"]), str(route["custodian"])
    named = "" if name.startswith("routes.") or name == custodian else f" · {name}"
    network = route.get("network")
    return f"{custodian}{named}" + (f" · {network}" if network else "")


_STATUS_WORDS = {
    "created": ("bolt", "run", "Payout created"),
    "queued": ("clock", "mute", "Waits for its turn at the account"),
    "awaiting_funds": ("clock", "act", "Waits for funds at the account"),
    "awaiting_approval": ("clock", "act", "Waits for an approval at the custodian"),
    "requires_action": ("key", "act", "Needs a person's answer"),
    "submitting": ("arrow", "mute", "Handed to the custodian"),
    "submitted": ("arrow", "run", "Taken by the custodian"),
    "outcome_unknown": ("magnifier", "chk", "Outcome unknown"),
    "broadcast": ("arrow", "run", "Broadcast"),
    "confirming": ("arrow", "run", "Being confirmed"),
    "settling": ("arrow", "run", "Settling"),
    "delivered": ("tick", "ok", "Delivered"),
    "rejected": ("cross", "bad", "Refused by the custodian"),
    "failed": ("cross", "bad", "Failed"),
    "canceled": ("dash", "mute", "Canceled"),
    "expired": ("clock", "bad", "Its time ran out"),
}
_STATUS_TEXTS = {
    "outcome_unknown": "Money may have moved. It is not sent again until the answer is clear.",
    "queued": "The account pays one payout at a time.",
}


def _statuses(story: Mapping[str, Any], payout: Payout) -> Iterator[Entry]:
    """Yield an entry for each step, with the deliveries of its event."""
    told: set[str] = set()
    for step in payout.timeline:
        icon, kind, title = _STATUS_WORDS.get(step.sub_status.value, ("dash", "mute", "Step"))
        text = step.detail or _STATUS_TEXTS.get(step.sub_status.value, "")
        if step.tx_hash:
            text = f"{text} Transaction {short(step.tx_hash)}.".strip()
        if step.sub_status.value in {"failed", "rejected"} and payout.failure is not None:
            moved = {
                "no": "No money moved.",
                "yes": "Money moved.",
                "unknown": "Money may have moved.",
            }
            text = f"{payout.failure.message} {moved[payout.failure.funds_moved.value]}".strip()
        entry = Entry(step.at, icon, kind, title, MONEY, "", text)
        wanted = (
            "payout.requires_action"
            if step.sub_status == "requires_action"
            else EVENT_OF[step.status]
        )
        event = next(
            (e for e in story["events"] if e["type"] == wanted and e["id"] not in told), None
        )
        first = step.status.value not in {t.status.value for t in payout.timeline if t.at < step.at}
        if event is not None and (first or wanted.endswith("requires_action")):
            told.add(event["id"])
            entry = _with_deliveries(entry, story, event)
        yield entry


def _with_deliveries(entry: Entry, story: Mapping[str, Any], event: Mapping[str, Any]) -> Entry:
    lines = [each for each in story["deliveries"] if each["event_id"] == event["id"]]
    endpoints = {each["endpoint_id"]: each["state"] for each in lines}
    arrived = sum(state == "delivered" for state in endpoints.values())
    meta = f"event {event['sequence']} · {event['type']}"
    if not endpoints:
        return replace(entry, meta=meta)
    many = len(endpoints)
    words = f"Delivered to {arrived} of {many} endpoint{'' if many == 1 else 's'}."
    return replace(
        entry,
        meta=meta,
        text=f"{entry.text} {words}".strip(),
        calls=tuple(_delivery(each) for each in lines),
    )


def _delivery(line: Mapping[str, Any]) -> Call:
    host = urlsplit(line["url"]).hostname or line["url"]
    if not line["attempt"]:
        return Call(host, line["state"], "", line["event_id"], line["endpoint_id"])
    answer = str(line["http_status"] or line["outcome"].replace("_", " "))
    took = span(line["duration_ms"] / 1000)
    if line["attempt"] > 1:
        took = f"try {line['attempt']} · {took}"
    return Call(host, answer, took, line["event_id"], line["endpoint_id"])


def _other_events(story: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield events that report no status, or repeat one."""
    known = {*EVENT_OF.values(), "payout.requires_action"}
    for event in story["events"]:
        at = read_time(event["at"])
        if event["type"] in known or at is None:
            continue
        words = EVENT_TYPES.get(event["type"], event["type"])
        yield _with_deliveries(Entry(at, "bolt", "mute", words, WEBHOOKS), story, event)


_CALL_WORDS = {
    None: (
        "warn",
        "act",
        "Moving mark set",
        "The only call that can move money. Its answer is not known yet.",
    ),
    "unknown": (
        "magnifier",
        "chk",
        "No clear reply to the moving call",
        "Money may have moved. The payout is asked for, and not sent again.",
    ),
    "accepted": (
        "tick",
        "run",
        "Moving call accepted",
        "The custodian has it; from here on it is only looked at.",
    ),
    "not_sent": (
        "dash",
        "mute",
        "Moving call not sent",
        "It did not reach the custodian: nothing moved.",
    ),
    "wrong_answer": ("key", "act", "The code was not accepted", "Nothing moved."),
    "turned_away": (
        "magnifier",
        "chk",
        "Moving call turned away",
        "That proves nothing of an earlier call.",
    ),
    "rejected": (
        "cross",
        "bad",
        "Moving call refused",
        "The custodian refused it finally: nothing moved.",
    ),
}
_LOOK_WORDS = {
    "absent": ("magnifier", "Look: not known there", "Counts towards proof of absence."),
    "not_listed": (
        "magnifier",
        "Look: not in the custodian's list",
        "Counts towards proof of absence.",
    ),
    "present": ("magnifier", "Look: the custodian knows it", ""),
    "asks": ("magnifier", "Look: the custodian waits for an answer", ""),
    "blind": ("magnifier", "Look: there was nothing to ask by", ""),
    "failed": ("magnifier", "Look failed", "It is tried again."),
}
_NEWS_SOURCES = {
    "reply": "the custodian's reply",
    "look": "a look",
    "webhook": "a webhook",
    "operator": "an operator",
}


def _executions(story: Mapping[str, Any], *, everything: bool) -> Iterator[Entry]:
    for execution in story["executions"]:
        at = read_time(execution["created_at"])
        if at is None:
            continue
        text = f"{execution['size']} payouts are sent together." if execution["size"] > 1 else ""
        title = f"Execution {execution['number']} started"
        yield Entry(at, "arrow", "run", title, CUSTODIAN, short_id(execution["id"]), text)
        yield from _joined(_evidence(each, everything=everything) for each in execution["evidence"])


def _evidence(row: Mapping[str, Any], *, everything: bool) -> Entry | None:  # noqa: PLR0911 - one per kind
    at = read_time(row["at"])
    if at is None:
        return None
    detail = row["detail"] or "" if everything else ""
    by = f"reference {short(row['reference'])}" if row["reference"] and everything else ""
    if row["kind"] == "call":
        icon, kind, title, text = _CALL_WORDS.get(row["answer"], _CALL_WORDS[None])
        return Entry(at, icon, kind, title, CUSTODIAN, by, f"{text} {detail}".strip())
    if row["kind"] == "look":
        icon, title, text = _LOOK_WORDS.get(row["answer"], _LOOK_WORDS["failed"])
        return Entry(at, icon, "mute", title, CUSTODIAN, "read only", f"{text} {detail}".strip())
    if row["kind"] == "news":
        source = _NEWS_SOURCES.get(row["source"], "the custodian")
        return Entry(at, "down", "run", "Money on its way", CUSTODIAN, f"by {source}", detail)
    if row["kind"] == "word":
        source = _NEWS_SOURCES.get(row["source"], "the custodian")
        moved = {"no": "No money moved.", "yes": "Money moved."}.get(
            row["answer"], "Money may have moved."
        )
        return Entry(
            at, "down", "mute", "The custodian says it failed", CUSTODIAN, f"by {source}", moved
        )
    if row["kind"] == "console":
        title = f"Operator asked to look: number {row['number']}"
        return Entry(at, "person", "act", title, CUSTODIAN, "", detail)
    # A delivery that still waits is not worth showing.
    return None


def _joined(found: Iterable[Entry | None]) -> Iterator[Entry]:
    """Yield entries; consecutive looks with the same finding become one entry with a row for each."""
    kept: Entry | None = None
    rows: list[Call] = []
    for each in found:
        if each is None:
            continue
        if (
            kept is not None
            and (each.title, each.group) == (kept.title, kept.group)
            and each.meta == "read only"
        ):
            rows = rows or [_look_row(kept)]
            rows.append(_look_row(each))
            continue
        if kept is not None:
            yield replace(kept, calls=tuple(rows))
        kept, rows = each, []
    if kept is not None:
        yield replace(kept, calls=tuple(rows))


def _look_row(entry: Entry) -> Call:
    return Call(f"{entry.at:%H:%M:%S} UTC", entry.title.removeprefix("Look: "))


_WEBHOOK_STATES = {
    "applied": "It was applied.",
    "waiting": "It waits for the payout that it is about.",
    "new": "It is being applied.",
    "failed": "It could not be applied.",
}


def _webhooks(story: Mapping[str, Any], payout: Payout) -> Iterator[Entry]:
    for each in story["custodian_webhooks"]:
        at = read_time(each["received_at"])
        if at is not None:
            text = _WEBHOOK_STATES.get(each["state"], f"State: {each['state']}.")
            title = f"Webhook from {payout.custodian}"
            yield Entry(at, "down", "mute", title, CUSTODIAN, short(each["dedup_key"]), text)


def _acts(story: Mapping[str, Any], *, everything: bool) -> Iterator[Entry]:
    for each in story["acts"]:
        at = read_time(each["at"])
        if at is not None:
            title = ACTS.get(each["act"], each["act"].replace("_", " ").capitalize())
            # An org must not see which operator of the whole gateway acted, and what they found.
            meta = f"by {each['actor']}" if everything else ""
            text = each["detail"] if everything else ""
            yield Entry(at, "person", "mute", title, MONEY, meta, text)


def _returns(story: Mapping[str, Any]) -> Iterator[Entry]:
    for each in story["returns"]:
        at = read_time(each["recorded_at"])
        if at is not None:
            text = f"{money(each['amount'])} {each['asset']} came back."
            yield Entry(at, "back", "act", "Money came back", MONEY, "", text)


def _attention(story: Mapping[str, Any], *, everything: bool) -> Iterator[Entry]:
    for each in story["attention"]:
        at = read_time(each["first_at"])
        if at is not None:
            reason = reason_of(each["code"])
            text = each["detail"] if everything else reason.fix
            meta = "" if each["times"] == 1 else f"{each['times']} times"
            yield Entry(at, reason.icon, reason.kind, reason.title, MONEY, meta, text)
