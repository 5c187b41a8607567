"""Transfers and payouts of the Dfns twin. Each is accepted once, then the clock runs it.

Source: dfns protocol notes, §2 (lifecycle), §3 (external ids), §5 (transfer statuses). The ledger gets
its entry when a transfer is `Confirmed`, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

from adapters.dfns.twin.records import (
    FINAL_TRANSFERS,
    PayoutRecord,
    TransferRecord,
    fits_place,
)
from adapters.dfns.twin.requests import (
    BadRequest,
    Cancel,
    Confirm,
    CreatePayout,
    Erc20WalletTransfer,
    NativeTransfer,
    SplWalletTransfer,
)
from adapters.dfns.twin.world import (
    BORDERLESS_ACCOUNT,
    EUR_BANK_ACCOUNT,
    MEMO_NETWORKS,
    RATES,
    TOKEN_OWNERS,
    WALLETS,
    DfnsSettings,
    Token,
    TransferCourse,
    WalletRecord,
    payout_course,
    transfer_course,
)
from adapters.twin.clock import TwinClock
from adapters.twin.ledger import Ledger

Tell = Callable[[str, dict[str, Any]], None]
_DATE_OF = {"Broadcasted": "dateBroadcasted", "Confirmed": "dateConfirmed"}
_EVENT_OF = {
    "Broadcasted": "wallet.transfer.broadcasted",
    "Confirmed": "wallet.transfer.confirmed",
    "Failed": "wallet.transfer.failed",
    "Rejected": "wallet.transfer.rejected",
}


def find_wallet(wallet_id: str) -> WalletRecord:
    """Return a wallet, or raise BadRequest with 404."""
    wallet = WALLETS.get(wallet_id)
    if wallet is None:
        raise BadRequest("Wallet not found", 404)
    return wallet


def find_token(wallet: WalletRecord, kind: str, place: str | None) -> Token:
    """Return the wallet's token, or raise BadRequest."""
    for token in wallet.tokens:
        if fits_place(token, kind, place):
            return token
    raise BadRequest(f"{kind} {place or ''} is not an asset of {wallet.network}")


class TransferBook:
    """Every wallet transfer."""

    def __init__(self, clock: TwinClock, ledger: Ledger, tell: Tell) -> None:
        self._clock = clock
        self._ledger = ledger
        self._tell = tell
        self.settings = DfnsSettings()
        self.clear()

    def clear(self) -> None:
        """Forget everything; the clock's timers must be forgotten with it."""
        self.transfers: dict[str, TransferRecord] = {}
        self._by_external_id: dict[str, tuple[str, Any, TransferRecord]] = {}
        #: Pairs of mint and owner that received a token account with a transfer.
        self._token_accounts: set[tuple[str, str]] = set()

    def request(
        self,
        wallet_id: str,
        wanted: NativeTransfer | Erc20WalletTransfer | SplWalletTransfer,
        body: dict[str, Any],
    ) -> tuple[TransferRecord, bool]:
        """Return the transfer of a call and whether the policy holds it; a repeat gets the first transfer."""
        wallet = find_wallet(wallet_id)
        token = find_token(wallet, wanted.kind, wanted.place)
        if int(wanted.amount) == 0:
            raise BadRequest("amount: must be above zero")
        known = self._by_external_id.get(wanted.external_id or "")
        if known is not None:
            first_wallet, first_body, first = known
            if (first_wallet, first_body) != (wallet_id, body):
                details = {"duplicate": {"id": first.id, "externalId": first.external_id}}
                raise BadRequest("externalId was used for another transfer", 409, details)
            return first, False
        self._check_extras(wallet, wanted)
        echo = {name: value for name, value in body.items() if name != "externalId"}
        course = transfer_course(_whole(int(wanted.amount), token))
        record = self.start(wallet, token, echo, int(wanted.amount), course, wanted.external_id)
        if wanted.external_id is not None:
            self._by_external_id[wanted.external_id] = (wallet_id, body, record)
        return record, course.answers_202 and self.settings.policy_answers_202

    def _check_extras(
        self, wallet: WalletRecord, wanted: NativeTransfer | Erc20WalletTransfer | SplWalletTransfer
    ) -> None:
        """Refuse members that the network does not have, and a recipient without a token account."""
        native = isinstance(wanted, NativeTransfer)
        if native and wanted.memo and wallet.network not in MEMO_NETWORKS:
            raise BadRequest(f"memo: not supported on {wallet.network}")
        if wanted.use_durable_nonce and not wallet.network.startswith("Solana"):
            raise BadRequest(f"useDurableNonce: not supported on {wallet.network}")
        if not isinstance(wanted, SplWalletTransfer):
            return
        account = (wanted.mint, wanted.to)
        if wanted.to in TOKEN_OWNERS or account in self._token_accounts:
            return
        if not wanted.create_destination_account:
            raise BadRequest(
                "to: the recipient has no token account of this mint; set createDestinationAccount"
            )
        self._token_accounts.add(account)

    def start(  # noqa: PLR0913 - what a transfer is
        self,
        wallet: WalletRecord,
        token: Token,
        request: dict[str, Any],
        units: int,
        course: TransferCourse,
        external_id: str | None,
        ended: Callable[[TransferRecord], None] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
    ) -> TransferRecord:
        """Make a transfer and let the clock run it."""
        record = TransferRecord(
            wallet, token, request, units, course, self._clock.stamp(), external_id, ended=ended
        )
        self.transfers[record.id] = record
        self._enter(record, 0, changed, first=True)
        return record

    def _enter(
        self,
        record: TransferRecord,
        number: int,
        changed: Callable[[], None],
        *,
        first: bool = False,
    ) -> None:
        status, wait_s = record.course.legs[number]
        if status == "Executing" and not self._hold(record):
            status = "Failed"
        record.status = status
        now = self._clock.stamp()
        if status == "Broadcasted":
            record.reach_chain()
        if status in _DATE_OF:
            record.dates[_DATE_OF[status]] = now
        if status in {"Failed", "Rejected"}:
            record.reason = record.reason or record.course.reason
        if status in FINAL_TRANSFERS:
            self._settle(record)
        record.history.add(self._clock.now(), record.document())
        if first:
            self._tell("wallet.transfer.requested", {"transferRequest": record.document()})
        if status in _EVENT_OF:
            self._tell(_EVENT_OF[status], {"transferRequest": record.document()})
        changed()
        if status in FINAL_TRANSFERS:
            record.ended(record)
            return
        seconds = self.settings.step_s if wait_s is None else wait_s
        self._clock.call_later(seconds, partial(self._enter, record, number + 1, changed))

    def _hold(self, record: TransferRecord) -> bool:
        wallet, symbol = record.wallet.id, record.token.symbol
        if self._ledger.free(wallet, symbol) < record.amount:
            record.reason = "insufficient balance"
            return False
        self._ledger.hold(wallet, symbol, record.amount)
        record.held = True
        return True

    def _settle(self, record: TransferRecord) -> None:
        wallet, symbol = record.wallet.id, record.token.symbol
        if record.status == "Confirmed":
            self._ledger.move(
                record.id,
                wallet,
                str(record.request["to"]),
                symbol,
                f"{record.amount.normalize():f}",
            )
        elif record.held:
            self._ledger.give_back(wallet, symbol, record.amount)


class PayoutBook:
    """Every off-ramp payout."""

    def __init__(self, clock: TwinClock, transfers: TransferBook, tell: Tell) -> None:
        self._clock = clock
        self._transfers = transfers
        self._tell = tell
        self.settings = DfnsSettings()
        self.clear()

    def clear(self) -> None:
        """Forget everything; the clock's timers must be forgotten with it."""
        self.payouts: dict[str, PayoutRecord] = {}
        self._by_external_id: dict[str, PayoutRecord] = {}

    def create(self, wanted: CreatePayout, body: Any) -> PayoutRecord:
        """Register a payout, or return the one of the same `externalId`."""
        wallet = find_wallet(wanted.wallet_id)
        token = find_token(wallet, wanted.asset.kind, wanted.asset.place)
        if wanted.borderless_account_id != BORDERLESS_ACCOUNT:
            raise BadRequest("borderlessAccountId was not found", 404)
        if wanted.payment_instructions_id != EUR_BANK_ACCOUNT or wanted.fiat_currency != "EUR":
            raise BadRequest("paymentInstructionsId was not found for this currency", 404)
        if int(wanted.asset.amount) == 0:
            raise BadRequest("asset.amount: must be above zero")
        known = self._by_external_id.get(wanted.external_id or "")
        if known is not None:
            if known.body != body and self.settings.payout_other_body == "refuse":
                details = {"duplicate": {"id": known.id, "externalId": wanted.external_id}}
                raise BadRequest("externalId was used for another payout", 409, details)
            return known
        course = payout_course(_whole(int(wanted.asset.amount), token))
        record = PayoutRecord(wallet, token, wanted, course, self._clock.stamp(), body)
        self.payouts[record.id] = record
        if wanted.external_id is not None:
            self._by_external_id[wanted.external_id] = record
        self._walk(record, course.before, 0, partial(self._await, record))
        return record

    def act(self, record: PayoutRecord, action: Confirm | Cancel) -> bool:
        """Confirm or cancel; return whether the policy holds the transfer."""
        if isinstance(action, Cancel):
            if record.execution not in {
                "Initializing",
                "AwaitingPayoutInstructions",
                "AwaitingPayoutConfirmation",
            }:
                raise BadRequest("Payout can no longer be canceled", 409)
            record.dates["dateCanceled"] = self._clock.stamp()
            self._end(record, "Canceled", "canceled by the caller")
            return False
        self._check_confirm(record, action)
        if record.confirmed:
            return self._confirm_again(record)
        record.confirmed = True
        record.dates["dateConfirmed"] = self._clock.stamp()
        self._walk(record, record.course.after, 0, partial(self._pay, record))
        course = record.course.transfer
        return bool(course and course.answers_202 and self.settings.policy_answers_202)

    def _check_confirm(self, record: PayoutRecord, action: Confirm) -> None:
        again = record.confirmed and not record.done
        if record.execution != "AwaitingPayoutConfirmation" and not again:
            raise BadRequest("Payout is not awaiting a confirmation", 409)
        transfer = action.transfer
        fits = (
            action.wallet_id == record.wallet.id
            and transfer.amount == record.wanted.asset.amount
            and transfer.to == record.deposit_address
            and fits_place(record.token, transfer.kind, transfer.place)
        )
        if not fits:
            raise BadRequest("The transfer does not match the payout")

    def _confirm_again(self, record: PayoutRecord) -> bool:
        if self.settings.second_confirm == "refused":
            raise BadRequest("Payout is not awaiting a confirmation", 409)
        if self.settings.second_confirm == "pays_again":
            # The vendor leaves this open; the worst case is another transfer to the same deposit
            # address.
            self._transfers.start(
                record.wallet,
                record.token,
                self._settling(record),
                record.units,
                transfer_course(_whole(0, record.token)),
                None,
            )
        return False

    def _walk(
        self,
        record: PayoutRecord,
        steps: tuple[tuple[str, float | None], ...],
        number: int,
        then: Callable[[], None],
    ) -> None:
        if record.done:
            return
        if number == len(steps):
            then()
            return
        execution, wait_s = steps[number]
        self._set(record, execution)
        seconds = self.settings.step_s if wait_s is None else wait_s
        self._clock.call_later(seconds, partial(self._walk, record, steps, number + 1, then))

    def _await(self, record: PayoutRecord) -> None:
        if record.course.before_end is not None:
            self._end(record, record.course.before_end, "ended before the confirmation")
            return
        record.open_deposit(self.settings.solana_deposits)
        self._set(record, "AwaitingPayoutConfirmation")
        self._tell("payout.action.required", {"payout": record.document()})
        self._clock.call_later(self.settings.confirm_window_s, partial(self._run_out, record))

    def _run_out(self, record: PayoutRecord) -> None:
        if not record.done and not record.confirmed:
            self._end(record, "Expired", "not confirmed in time")

    def _settling(self, record: PayoutRecord) -> dict[str, Any]:
        asset = record.wanted.asset.model_dump(by_alias=True)
        return {**asset, "to": record.deposit_address}

    def _pay(self, record: PayoutRecord) -> None:
        if record.course.after_end is not None:
            self._end(record, record.course.after_end, "ended after the confirmation")
            return
        course = record.course.transfer or transfer_course(_whole(0, record.token))
        external = record.wanted.external_id if self.settings.transfer_external_id else None
        record.transfer = self._transfers.start(
            record.wallet,
            record.token,
            self._settling(record),
            record.units,
            course,
            external,
            ended=partial(self._deposited, record),
            changed=partial(self._follow, record),
        )
        self._follow(record)
        if record.course.overtaken is not None:
            end, seconds = record.course.overtaken
            self._clock.call_later(seconds, partial(self._end, record, end, "took too long"))

    def _follow(self, record: PayoutRecord) -> None:
        transfer = record.transfer
        if transfer is None:
            return
        if record.done:
            # The hash of a late transfer is still reported.
            self._show(record)
            return
        waiting = "PendingPolicyApproval" if transfer.status == "Pending" else "DepositProcessing"
        if transfer.status not in FINAL_TRANSFERS:
            self._set(record, waiting)

    def _deposited(self, record: PayoutRecord, transfer: TransferRecord) -> None:
        if record.done:
            self._show(record)
            return
        if transfer.status != "Confirmed":
            end = "Rejected" if transfer.status == "Rejected" else "Failed"
            self._end(record, end, transfer.reason)
            return
        record.dates["dateDepositConfirmed"] = self._clock.stamp()
        self._walk(record, record.course.tail, 0, partial(self._finish, record))

    def _finish(self, record: PayoutRecord) -> None:
        end = record.course.end
        if end == "Completed":
            record.dates["datePayoutConfirmed"] = self._clock.stamp()
        self._end(record, end, None if end == "Completed" else "the provider failed")

    def _end(self, record: PayoutRecord, execution: str, reason: str | None) -> None:
        if record.done:
            return
        record.status, record.reason = execution, reason
        record.finalized_at = self._clock.stamp()
        self._set(record, execution)

    def _set(self, record: PayoutRecord, execution: str) -> None:
        record.execution = execution
        self._show(record)

    def _show(self, record: PayoutRecord) -> None:
        record.history.add(self._clock.now(), record.document())


def offer_of(units: int, token: Token, fiat: str) -> dict[str, Any]:
    """Return an indicative offer, in the vendor's floats."""
    if fiat not in RATES:
        raise BadRequest(f"fiatCurrency {fiat} is not served")
    amount = (_whole(units, token) * RATES[fiat]).quantize(RATES["USD"].scaleb(-2))
    return {"fiatCurrency": fiat, "amount": float(amount), "fees": 0.5}


def _whole(units: int, token: Token) -> Decimal:
    return Decimal(units).scaleb(-token.decimals)


def asset_of(wallet: WalletRecord, token: Token, ledger: Ledger) -> dict[str, Any]:
    """Return a token of a wallet with its balance, as `GET /wallets/{id}/assets` shows it."""
    amount = ledger.free(wallet.id, token.symbol) * 10**token.decimals
    document = {
        "kind": token.kind,
        "symbol": token.symbol,
        "decimals": token.decimals,
        "verified": True,
        "balance": f"{amount:.0f}",
    }
    if token.place is not None:
        document["contract" if token.kind == "Erc20" else "mint"] = token.place
    return document
