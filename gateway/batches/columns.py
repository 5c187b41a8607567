"""The rows of a batch's items."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.batches.items import Planned
from gateway.batches.schemas import BatchSource
from gateway.caller import Caller
from gateway.payout_change import created_document
from gateway.runtime import Ids


class ItemColumns:
    """Makes the columns of a batch's items, of what they share and what each of them is."""

    def __init__(
        self, ids: Ids, caller: Caller, source: BatchSource, batch_id: str, at: int
    ) -> None:
        self._ids = ids
        self._shared = {
            "org": caller.org,
            "mode": caller.mode,
            "quote_id": None,
            "status": "pending",
            "sub_status": "created",
            "custodian": source.custodian,
            "account": source.account.model_dump_json(),
            "custodian_reference": None,
            "custodian_word": None,
            "document": created_document(at),
            "failure": None,
            "funds_moved": None,
            "fees_paid_usd": None,
            "observed_at": None,
            "sequence": 0,
            "first_answer": None,
            "created_at": at,
            "updated_at": at,
            "batch_id": batch_id,
        }

    def of(self, position: int, item: Planned) -> Mapping[str, object]:
        """Return the columns of an item, under a new id."""
        return {
            **self._shared,
            "external_ref": item.external_ref,
            "reference": item.reference,
            "metadata": item.metadata,
            "terms": item.terms,
            "name": item.name,
            "id": self._ids.new("pay"),
            "batch_position": position,
        }
