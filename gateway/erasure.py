"""Erasing the personal data of recipients, once a payout is over.

What is erased: who was paid (addresses, accounts, bank details, names), what the partner noted beside it
(`metadata`), and every text in which a custodian, a receiver or an operator may have named somebody: in
the payout and its quote, its events, the log of tries, the custodian's webhooks, the notes and the
evidence's remarks. What stays: ids, references, amounts, statuses, times, hashes of transactions, and all
that the rules of "never twice" compare. So sums, searches by reference and the rule that a reference is
paid once do not change.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.runtime import Ids
from gateway.store import erasure as rows
from gateway.store.audit import add_audit
from gateway.store.database import Tx
from gateway.store.rows import to_json

#: What stands where something was erased.
ERASED = "erased"
#: The act in the audit log.
ACT = "personal_data_erased"
#: Members of a destination that show how a person was paid, and not who.
_HOW = frozenset({"type", "network", "account_type", "country", "fiat_currency"})
#: Members of a required action that may say where a person is reached.
_WHERE = ("channel", "masked_target", "url")
#: Notes of an execution that are ids at the custodian.
_IDS = ("payout_id", "transfer_id")


async def erase(tx: Tx, ids: Ids, at: int, payout_id: str, actor: str) -> list[str]:
    """Store function: erase the personal data of a payout's recipient, and write it to the audit log.

    Returns why not: its data is still needed; then nothing is changed. `at`: wall clock, in microseconds.
    LookupError if there is no such payout. May be called again: what came since is erased, too.
    """
    row = await rows.standing(tx, payout_id)
    if row is None:
        msg = f"there is no payout {payout_id}"
        raise LookupError(msg)
    needed = rows.needs_of(row)
    if needed:
        return needed
    await rows.write_erased(
        tx,
        payout_id,
        at,
        quote_id=row["quote_id"],
        terms=erased_terms(row["terms"]),
        document=erased_document(row["document"]),
        failure=None if row["failure"] is None else erased_failure(row["failure"]),
    )
    bodies = await rows.event_bodies(tx, payout_id)
    await rows.write_bodies(tx, [(each["position"], erased_event(each["body"])) for each in bodies])
    await rows.erase_around(tx, payout_id, ERASED)
    for each in await rows.erased_executions(tx, payout_id):
        await rows.write_execution(tx, each["id"], erased_notes(each["notes"]))
    detail = "personal data of the recipient was erased"
    await add_audit(tx, ids, at, actor=actor, act=ACT, subject=payout_id, detail=detail)
    return []


def erased_terms(text: str) -> str:
    """Return stored terms without the recipient. Pure; twice is as once."""
    terms = json.loads(text)
    _erase_destination(terms)
    return to_json(terms)


def erased_document(text: str) -> str:
    """Return a stored history without remarks, and without where a person was reached. Pure."""
    document = json.loads(text)
    for entry in document.get("timeline") or ():
        entry.pop("detail", None)
    _erase_members(document.get("action"), _WHERE)
    for each in document.get("returns") or ():
        each.pop("word", None)
    return to_json(document)


def erased_failure(text: str) -> str:
    """Return a stored failure with its codes alone. Pure."""
    return to_json({**json.loads(text), "message": ERASED})


def erased_event(body: bytes) -> bytes:
    """Return the body of a payout's event as it would be without personal data. Pure."""
    event = json.loads(body)
    data = event.get("data")
    if isinstance(data, dict):
        _erase_destination(data.get("quote"))
        for name in ("metadata", "name"):
            if name in data:
                data[name] = {} if name == "metadata" else None
        for entry in data.get("timeline") or ():
            entry["detail"] = None
        _erase_members(data.get("requires_action"), _WHERE)
        if isinstance(data.get("failure"), dict):
            data["failure"]["message"] = ERASED
    return to_json(event).encode()


def erased_notes(text: str) -> str:
    """Return the notes of an execution that are ids at the custodian. Pure."""
    notes = json.loads(text)
    return to_json({name: notes[name] for name in _IDS if name in notes})


def _erase_destination(terms: Any) -> None:
    destination = terms.get("destination") if isinstance(terms, dict) else None
    if isinstance(destination, str):
        terms["destination"] = ERASED
    elif isinstance(destination, dict):
        for name, value in destination.items():
            if name not in _HOW and value is not None:
                destination[name] = ERASED


def _erase_members(value: Any, names: tuple[str, ...]) -> None:
    if isinstance(value, dict):
        for name in names:
            if name in value:
                value[name] = None
