"""Prints the whole story of a payout for people."""

from __future__ import annotations

import json
from typing import Any

from gateway.cli.common import print_table, say

#: The columns of each part of a story; parts without rows are left out.
_TABLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("code", "detail", "times", "first_at", "last_at", "closed_at", "closed_by")),
    ("timeline", ("at", "status", "sub_status", "detail")),
    ("transactions", ("at", "network", "status", "tx_hash")),
    (
        "executions",
        (
            "number",
            "custodian",
            "account",
            "state",
            "size",
            "open_calls",
            "failures",
            "outcome",
            "id",
        ),
    ),
    ("evidence", ("execution", "number", "at", "kind", "answer", "source", "detail")),
    ("notes", ("execution", "note", "value")),
    ("refs", ("kind", "value")),
    ("returns", ("returned_at", "amount", "asset", "custodian_id", "word")),
    ("custodian_webhooks", ("received_at", "state", "dedup_key")),
    ("acts", ("at", "actor", "act", "detail")),
    ("events", ("sequence", "type", "id", "at")),
    (
        "deliveries",
        (
            "type",
            "url",
            "state",
            "attempt",
            "outcome",
            "http_status",
            "duration_ms",
            "started_at",
            "next_attempt_at",
        ),
    ),
)


def print_story(story: dict[str, Any]) -> None:
    """Print the result of `gateway.story.tell`."""
    say(*_head(story))
    _print_decision(story["decision"])
    parts = {
        **story,
        "executions": [
            {**execution, "account": f"{execution['account']['type']} {execution['account']['id']}"}
            for execution in story["executions"]
        ],
        "transactions": story["payout"]["transactions"],
        "notes": [
            {"execution": execution["number"], "note": name, "value": _text(value)}
            for execution in story["executions"]
            for name, value in execution["notes"].items()
        ],
        "evidence": [
            {"execution": execution["number"], **row}
            for execution in story["executions"]
            for row in execution["evidence"]
        ],
    }
    for title, columns in _TABLES:
        rows = parts[title]
        if rows:
            print_table(
                title.replace("_", " "),
                list(columns),
                [[row.get(name) for name in columns] for row in rows],
            )


def _print_decision(decision: dict[str, Any] | None) -> None:
    """Print the route of the quote, and why each other one was left out."""
    if decision is None:
        return
    asked = "asked for by the partner" if decision.get("asked_for") else decision["policy"]
    first = "taken"
    rows = []
    for each in decision["candidates"]:
        terms = f"fee {each['fee']}, {each['estimated_seconds']} s"
        waits = each.get("waits")
        rows.append([*_place(each), first, terms if waits is None else f"{terms}; {waits}"])
        first = "candidate"
    rows += [[*_place(each), each["reason"], each["detail"]] for each in decision["left_out"]]
    columns = ["route", "custodian", "account", "decision", "detail"]
    print_table(f"decision of the quote ({asked})", columns, rows)


def _place(each: dict[str, Any]) -> list[str]:
    return [each["route"], each["custodian"], f"{each['account']['type']} {each['account']['id']}"]


def _head(story: dict[str, Any]) -> list[str]:
    payout = story["payout"]
    terms, failure = payout["quote"], payout["failure"]
    mode = "" if payout["livemode"] else "  (test mode)"
    lines = [
        f"{payout['id']}  {payout['status']} / {payout['sub_status']}{mode}",
        f"  {terms['recipient_gets']} {terms['recipient_asset']} to {_destination(terms['destination'])}",
        f"  org {story['org']}  external_ref {payout['external_ref']}  reference {payout['reference'] or '-'}  quote {terms['quote_id'] or '-'}",
        f"  custodian {payout['custodian']}  from {story['account']['type']} {story['account']['id']}",
        f"  there known as {payout['custodian_reference'] or '-'}  its last word: {story['custodian_word'] or '-'}",
        f"  next look {story['next_look_at'] or 'none'}  lease {story['lease'] or 'free'}",
    ]
    if story["erased_at"]:
        lines.append(f"  personal data was erased at {story['erased_at']}")
    if story["queued_behind"]:
        lines.append(f"  queued: {story['queued_behind']} has the turn at the account")
    if story["blocked"]:
        lines.append(f"  no further call is made: {story['blocked']}")
    lines += [
        f"  with {each['size'] - 1} others in set {each['number']} of {each['batch_id']}: "
        f"{each['state']}, last outcome {each['outcome'] or '-'}"
        for each in story["executions"]
        if each["size"] > 1
    ]
    if failure:
        lines.append(
            f"  failed: {failure['code']} ({failure['custodian_code'] or '-'}), "
            f"funds moved: {failure['funds_moved']}. {failure['message']}"
        )
    return lines


def _destination(destination: Any) -> str:
    """Return a destination on one line: its type, then its details."""
    if isinstance(destination, str):
        return destination
    told = dict(destination)
    kind = told.pop("type")
    return " ".join([kind, *(_text(value) for value in told.values() if value is not None)])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
