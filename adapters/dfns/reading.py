"""Reads an off-ramp payout together with the wallet transfer that settles it.

Source: dfns protocol notes, §2 (payout object, execution statuses), §5 (transfers). Only `Completed`
delivers; an end is a failure only once the transfer is final as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from adapters.dfns.client import Client
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.statuses import (
    AWAITING_CONFIRM,
    BEFORE_CONFIRM,
    PAYOUT_ENDS,
    PAYOUT_WORDS,
    SETTLING_NEWS,
    clean,
    payout_failure,
)
from adapters.dfns.terms import fee_usd, payout_echo, same_address, untold
from adapters.dfns.transfers import (
    path_id,
    read_transfer,
    refs_of,
    transaction_of,
    transfer_of,
)
from gateway.adapter import (
    Echo,
    Failure,
    FundsMoved,
    NotSent,
    Order,
    Ref,
    Report,
    SubStatus,
    Tools,
    Transaction,
    read_time,
)

#: The intervals for looking at a payout that is not ready: short for young ones, long for old ones.
_SOONEST_S, _SLOWEST_S = 1.0, 60.0
#: How long a new transfer may take to be listed.
_VISIBLE_AFTER_S = 60.0
#: The most entries of one page of a list (dfns protocol notes, §2: 1 to 50).
_PAGE = 50


class SearchEnded(NotSent):
    """A wallet has more transfers than are searched, and none of those that were read settles the payout."""


@dataclass(frozen=True)
class Look:
    """A payout as Dfns reported it."""

    told: Mapping[str, Any]
    #: whether its end was seen long enough before this look began that a transfer would be listed by
    #: now
    late: bool


class PayoutReader:
    """Reads payouts and interprets them."""

    def __init__(self, settings: DfnsSettings, client: Client, tools: Tools) -> None:
        self._settings = settings
        self._client = client
        self._tools = tools

    async def read(self, order: Order) -> Look | None:
        """Return the remembered payout; None if Dfns says there is none. Raises NotSent."""
        # Take the time before the look, because a finding is dated by the start of the look.
        stamp = order.notes.get("ended_stamp")
        late = stamp is not None and order.passed_s(str(stamp)) >= _VISIBLE_AFTER_S
        answer = await self._client.get(f"/payouts/{path_id(str(order.notes['payout_id']))}")
        if answer.not_found:
            return None
        if not answer.ok:
            raise answer.not_done(f"payout: {answer.words()}")
        return Look(answer.json, late)

    async def judge(self, order: Order, look: Look) -> Report:
        """Read a payout that was confirmed or has ended, together with its settling transfer."""
        told, execution = look.told, execution_of(look.told)
        echo = payout_echo(self._settings, self._tools.assets, order, told)
        transfer = await self._settling(order, told, ended=execution in PAYOUT_ENDS)
        transactions = (
            () if transfer is None else (transaction_of(transfer, order.network, self._tools),)
        )
        if untold(echo):
            return self._tell(order, told, None, echo, transactions, unknown_words=untold(echo))
        if execution in PAYOUT_ENDS:
            return await self._ended(order, look, echo, transfer, transactions)
        sub_status = PAYOUT_WORDS.get(execution)
        if sub_status is None and execution not in {*BEFORE_CONFIRM, AWAITING_CONFIRM}:
            unknown = (execution or "no executionStatus",)
            return self._tell(order, told, None, echo, transactions, unknown_words=unknown)
        if sub_status in {None, SubStatus.SUBMITTED, SubStatus.SETTLING}:
            # The settling transfer can only report a broadcast and a hash.
            news = SETTLING_NEWS.get(transfer_of(transfer).status) if transfer else None
            sub_status = news or sub_status or SubStatus.SUBMITTED
        report = self._tell(order, told, sub_status, echo, transactions)
        if sub_status is not SubStatus.DELIVERED or transfer is None:
            return report
        # The fee is that of the settling transfer. A payout does not report the provider's fee or what
        # the recipient got, so `final_recipient_amount` stays None.
        return replace(report, fees_paid_usd=fee_usd(self._settings, order.network, transfer))

    def unfit(self, order: Order, told: Mapping[str, Any]) -> Report | None:
        """Return the report of a payout that differs from the order, which is never confirmed (P7)."""
        echo = payout_echo(self._settings, self._tools.assets, order, told)
        lines = (*echo.differences(), *untold(echo))
        remembered = order.notes.get("payout_id")
        if remembered is not None and clean(told.get("id")) != remembered:
            lines = (*lines, f"id: asked for {remembered}, got {clean(told.get('id'))}")
        return self.park(order, told, "; ".join(lines)) if lines else None

    def park(
        self, order: Order, told: Mapping[str, Any], why: str, echo: Echo | None = None
    ) -> Report:
        """Return the report that stops a payout until an operator has looked, with both values."""
        if echo is None:
            echo = payout_echo(self._settings, self._tools.assets, order, told)
        odd = () if echo.differences() else (why,)
        detail = f"not confirmed: {why}"
        return self._tell(
            order, told, SubStatus.AWAITING_APPROVAL, echo, unknown_words=odd, detail=detail
        )

    def wait(self, order: Order, told: Mapping[str, Any], execution: str) -> Report:
        """Return the report of a payout that cannot be confirmed yet; a webhook may come sooner than the next look."""
        if order.moved:
            # It was confirmed and looks unconfirmed, so it is looked up again as after any unknown
            # outcome.
            raise NotSent(f"confirm: not possible while {execution}")
        payout_id = clean(told.get("id"))
        made = read_time(told.get("dateCreated"))
        # The wall clock is enough here, because it only affects the interval.
        age_s = (self._tools.clock.now() - made).total_seconds() if made else 0.0
        return Report(
            SubStatus.SUBMITTING,
            execution,
            refs=(Ref("payout", payout_id),),
            custodian_reference=payout_id,
            detail="created at Dfns; waits to be confirmed",
            again_after_s=min(_SLOWEST_S, max(_SOONEST_S, age_s / 2)),
        )

    async def _ended(
        self,
        order: Order,
        look: Look,
        echo: Echo,
        settling: Mapping[str, Any] | None,
        transactions: tuple[Transaction, ...],
    ) -> Report:
        """Read a payout that ended unpaid; it has failed only once everything that it started is final as well."""
        told = look.told
        execution, reason = execution_of(told), clean(data_of(told).get("statusReason"))
        if settling is None:
            moved = FundsMoved.NO
            if order.moved and not look.late:
                if "ended_stamp" not in order.notes:
                    await order.remember(ended_stamp=order.stamp())
                return self._tell(
                    order,
                    told,
                    SubStatus.OUTCOME_UNKNOWN,
                    echo,
                    transactions,
                    detail=f"{execution}; a transfer may still appear",
                )
        elif transfer_of(settling).ended:
            moved = transfer_of(settling).moved
        else:
            # A late approval can still move money.
            return self._tell(
                order,
                told,
                SubStatus.OUTCOME_UNKNOWN,
                echo,
                transactions,
                detail=f"{execution}, but its transfer is {transfer_of(settling).status}",
            )
        failure = payout_failure(execution, reason, moved)
        sub_status = PAYOUT_ENDS[execution][0]
        return self._tell(order, told, sub_status, echo, transactions, failure=failure)

    async def _settling(
        self, order: Order, told: Mapping[str, Any], *, ended: bool
    ) -> Mapping[str, Any] | None:
        """Return the transfer that settles a payout, which names it or has its deposit address."""
        transfer_id, wallet = clean(data_of(told).get("transferId")), order.source.id
        if transfer_id:
            found = await read_transfer(self._client, wallet, transfer_id)
            if found is None:
                raise NotSent(f"the settling transfer {transfer_id} is not shown")
            return found
        deposit = clean(data_of(told).get("depositAddress"))
        if not (ended and order.moved and deposit):
            return None
        return await self._search(wallet, deposit)

    async def _search(self, wallet: str, deposit: str) -> Mapping[str, Any] | None:
        """Search the wallet's transfers for one to a deposit address, which is this payout's own.

        It returns None only if the whole list was read. Dfns does not document the order of its list,
        so old transfers on one page prove nothing about the next one. Raises SearchEnded at the
        configured bound.
        """
        page, read = "", 0
        while read < self._settings.most_transfers_searched:
            answer = await self._client.get(f"/wallets/{wallet}/transfers?limit={_PAGE}{page}")
            read += _PAGE
            if not answer.ok or not isinstance(answer.json.get("items"), list):
                raise answer.not_done(f"transfers: {answer.words()}")
            for each in answer.json["items"]:
                request = each.get("requestBody") if isinstance(each, dict) else None
                to = clean(request.get("to")) if isinstance(request, dict) else ""
                if to and same_address(to, deposit):
                    return dict(each)
            token = clean(answer.json.get("nextPageToken"))
            if not token:
                return None
            # The token is opaque and may contain `=`, `+` and `/` (dfns protocol notes, §2).
            page = f"&paginationToken={quote(token, safe='')}"
        raise SearchEnded(
            f"the wallet has more than {read} transfers, and none of {read} goes to {deposit}: look for it "
            "at Dfns, or raise most_transfers_searched"
        )

    def _tell(  # noqa: PLR0913 - the members of a report
        self,
        order: Order,
        told: Mapping[str, Any],
        sub_status: SubStatus | None,
        echo: Echo,
        transactions: tuple[Transaction, ...] = (),
        *,
        unknown_words: tuple[str, ...] = (),
        failure: Failure | None = None,
        detail: str | None = None,
    ) -> Report:
        payout_id = str(order.notes.get("payout_id") or clean(told.get("id")))
        refs = [Ref("payout", payout_id)]
        for each in transactions:
            refs += refs_of(transfer_of({"id": each.id, "txHash": each.tx_hash}))
        words = "/".join(each for each in (clean(told.get("status")), execution_of(told)) if each)
        return Report(
            sub_status,
            words,
            refs=tuple(refs),
            transactions=transactions,
            failure=failure,
            echo=echo,
            custodian_reference=payout_id,
            unknown_words=unknown_words,
            detail=detail or (failure.message if failure else None),
        )


def data_of(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the provider's part of a payout."""
    data = told.get("data")
    return data if isinstance(data, Mapping) else {}


def execution_of(told: Mapping[str, Any]) -> str:
    """Return the execution status of a payout."""
    return clean(data_of(told).get("executionStatus"))
