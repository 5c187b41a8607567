"""The Dfns twin: off-ramp payouts and wallet transfers on loopback, strict and steerable.

    python -m adapters.dfns.twin.app --host 127.0.0.1 --port 0 --webhook-url URL --step-s 0.2

An independent witness, written from the dfns protocol notes; it imports neither the gateway nor the
adapter. The vendor's own Python and JavaScript clients work against it unchanged. Beside the control
API of `adapters.twin.control` it has `POST /_twin/credentials {"public_key": PEM}` (registers a key,
answers `{"credential_id"}`) and `POST /_twin/challenges/expire`.

Seeded: a wallet on EthereumSepolia and one on SolanaDevnet (1 000 000 USDC each, coins for fees, PYUSD
as Spl2022), a Borderless account and a EUR bank account at it (`world`).

A payout's life: Initializing, AwaitingPayoutConfirmation (webhook `payout.action.required`), after
Confirm SubmittingPayoutTransfer, then its wallet transfer runs (DepositProcessing), DisbursementPending,
Completed, each a step (`--step-s`) apart. A transfer's: Executing, Broadcasted, Confirmed. The ledger
gets its entry when a transfer is Confirmed; `reference` is the transfer's id.

Magic amounts: the fraction of an amount in whole units (e.g. 43.000601) steers it.

| transfers | what happens |
| --- | --- |
| .000601 | Pending (202) for 30 s, then goes through |
| .000602 | Pending (202) for 30 s, then Rejected |
| .000603 | Failed without a hash |
| .000604 | Failed with a hash |
| .000605 | Broadcasted for 60 s |
| .000606 | a word nobody knows, for 3600 s, then goes through |

| payouts | what happens |
| --- | --- |
| .000501 | AwaitingPayoutInstructions for 30 s, then goes through |
| .000502, .000503, .000504, .000505 | Expired, Rejected, Failed, Canceled before the confirmation |
| .000506, .000507 | Rejected, Failed after Confirm, no transfer made |
| .000508 | PendingPolicyApproval (Confirm answers 202) for 30 s, then goes through |
| .000509 | PendingPolicyApproval (202) for 30 s, then Rejected |
| .000510, .000511 | Failed: the settling transfer failed without, with a hash |
| .000512 | the deposit arrives, then Failed |
| .000513 | DisbursementPending for 60 s |
| .000514 | Expired after 60 s, while its transfer waits; approved and paid after 120 s |
| .000515 | a word nobody knows, for 3600 s, then goes through |

On Solana only the owners in `world.TOKEN_OWNERS` have token accounts: a token transfer to anybody else is
refused without `createDestinationAccount`.

Switches (`PUT /_twin/settings`) are the fields of `DfnsSettings`; where the vendor says nothing the
default is the worst case: a second Confirm pays again.

Faults (`POST /_twin/faults`) on `init`, `sign`, `quote`, `create`, `confirm`, `cancel`, `transfer`,
`payout`, `transfer_status`, `list`: those of `adapters.twin.faults`; `burn_key` {done} uses the user
action token up. On `payout`, `transfer_status` also `old_state` {seconds, hide_new}; on `confirm` and
`transfer` also `show_old` {seconds}: accepted, and reads show the old state for so long; on `payout`,
`transfer_status`, `webhook` also `alter` {what}: another deposit address (recipient), amount, asset or
wallet is told. On `webhook` also `duplicate`, `delay`, `reorder`, `forge`, `drop`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from adapters.dfns.twin.auth import (
    Door,
    PrivateKey,
    UserActions,
    credential_id,
    make_key,
    private_pem,
    public_pem,
)
from adapters.dfns.twin.books import (
    PayoutBook,
    TransferBook,
    asset_of,
    find_token,
    find_wallet,
    offer_of,
)
from adapters.dfns.twin.faults import FAULTS, alter
from adapters.dfns.twin.records import PayoutRecord, TransferRecord, new_id
from adapters.dfns.twin.requests import (
    BadRequest,
    page_of,
    read_action,
    read_create,
    read_init,
    read_json,
    read_quote,
    read_sign,
    read_transfer,
)
from adapters.dfns.twin.webhooks import RETRY_DELAYS_S, WebhookSigner, is_accepted, is_retried
from adapters.dfns.twin.world import BALANCES, BORDERLESS_ACCOUNT, WALLETS, DfnsSettings
from adapters.twin.base import Twin, TwinSettings
from adapters.twin.clock import TwinClock
from adapters.twin.control import read_object
from adapters.twin.faults import FaultBook
from adapters.twin.ledger import Ledger
from adapters.twin.outbox import Outbox
from adapters.twin.runner import TwinOptions, run_twin

_SHOW_OLD = frozenset({"show_old"})
Record = PayoutRecord | TransferRecord


class DfnsTwin(Twin):
    """One organisation of Dfns, with one service account."""

    def __init__(
        self,
        settings: DfnsSettings | None = None,
        base_time: Callable[[], float] = time.time,
        key: PrivateKey | None = None,
    ) -> None:
        clock, faults = TwinClock(base_time), FaultBook(FAULTS)
        self.signer = WebhookSigner(clock)
        outbox = Outbox(
            clock, faults, RETRY_DELAYS_S, is_retried, self.signer.forge, accepts=is_accepted
        )
        super().__init__(clock, Ledger(clock, BALANCES), faults, outbox, settings or DfnsSettings())
        self.token = "sa-" + new_id("token")
        self._key = key or make_key()
        self.actions = UserActions(clock.shared)
        public = public_pem(self._key)
        self.credential_id = credential_id(public)
        self.actions.register(self.credential_id, public)
        self._door = Door(clock.shared, self.token)
        self.transfers = TransferBook(clock, self.ledger, self._tell)
        self.payouts = PayoutBook(clock, self.transfers, self._tell)
        #: The time until which an object shows its old state, and the time of that state.
        self._old: dict[str, tuple[float, float]] = {}
        self.settings_changed(self.settings)

    def credentials(self, control_url: str) -> dict[str, str]:  # noqa: ARG002 - others need it
        """Return the service account's token and key, and what webhooks are verified with."""
        return {
            "auth_token": self.token,
            "credential_id": self.credential_id,
            "private_key": private_pem(self._key),
            "webhook_secret": self.signer.secret,
            "borderless_account_id": BORDERLESS_ACCOUNT,
        }

    def error(self, status: int, message: str, details: object = None) -> web.Response:
        """Return a refusal in the shape of the API."""
        error: dict[str, Any] = {"id": new_id("er"), "status": status, "message": message}
        if details is not None:
            error["details"] = details
        return web.json_response({"error": error}, status=status)

    def add_routes(self, app: web.Application) -> None:
        """Add the calls of the API, and two more control calls."""
        add = app.router
        add.add_post("/auth/action/init", self._init)
        add.add_post("/auth/action", self._sign)
        add.add_post("/payouts/quote", self._quote)
        add.add_post("/payouts", self._create)
        add.add_get("/payouts", self._list_payouts, allow_head=False)
        add.add_get("/payouts/{payout_id}", self._payout, allow_head=False)
        add.add_post("/payouts/{payout_id}/action", self._action)
        add.add_get("/wallets/{wallet_id}/assets", self._assets, allow_head=False)
        add.add_post("/wallets/{wallet_id}/transfers", self._transfer)
        add.add_get("/wallets/{wallet_id}/transfers", self._list_transfers, allow_head=False)
        add.add_get(
            "/wallets/{wallet_id}/transfers/{transfer_id}", self._transfer_status, allow_head=False
        )
        add.add_post("/_twin/credentials", self._register)
        add.add_post("/_twin/challenges/expire", self._expire_challenges)

    def empty(self) -> None:
        """Forget payouts, transfers, challenges and tokens."""
        self.payouts.clear()
        self.transfers.clear()
        self.actions.clear()
        self._door.clear()
        self._old.clear()

    def funded(self, account: str, asset: str) -> None:
        """Do nothing, because no payout waits for funds here."""

    def knows_account(self, account: str, asset: str) -> bool:
        """Say whether it is a wallet, and an asset of its network."""
        wallet = WALLETS.get(account)
        return wallet is not None and asset in {token.symbol for token in wallet.tokens}

    def settings_changed(self, settings: TwinSettings) -> None:
        """Hand the switches to the parts they steer."""
        if not isinstance(settings, DfnsSettings):
            raise TypeError(type(settings).__name__)
        self.payouts.settings = self.transfers.settings = settings
        self.actions.token_life_s = settings.token_life_s
        self.actions.payload_check = settings.payload_check
        self.actions.used_token_status = settings.used_token_status
        self.signer.retry_of = settings.retry_of
        self._door.per_minute = settings.requests_per_minute
        self._switches = settings

    async def _init(self, request: web.Request) -> web.StreamResponse:
        def do(body: bytes) -> web.Response:
            return web.json_response(self.actions.init(read_init(body)))

        return await self._plain("init", request, do)

    async def _sign(self, request: web.Request) -> web.StreamResponse:
        def do(body: bytes) -> web.Response:
            return web.json_response(self.actions.sign(read_sign(body)))

        return await self._plain("sign", request, do)

    async def _quote(self, request: web.Request) -> web.StreamResponse:
        return await self._plain("quote", request, self._do_quote)

    def _do_quote(self, body: bytes) -> web.Response:
        wanted = read_quote(body)
        wallet = find_wallet(wanted.wallet_id)
        token = find_token(wallet, wanted.asset.kind, wanted.asset.place)
        asset = {
            **wanted.asset.model_dump(by_alias=True),
            "network": wallet.network,
            "metadata": {"symbol": token.symbol, "decimals": token.decimals},
        }
        offer = offer_of(int(wanted.asset.amount), token, wanted.fiat_currency)
        document = {"provider": wanted.provider, "asset": asset, "timestamp": self.clock.stamp()}
        quotes = [{"quoteId": new_id("qt"), "offer": offer}]
        return web.json_response({**document, "quotes": quotes})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        def do(body: bytes) -> web.Response:
            record = self.payouts.create(read_create(body), read_json(body))
            return web.json_response(record.history.look())

        return await self._signed("create", request, do)

    async def _action(self, request: web.Request) -> web.StreamResponse:
        payout_id = request.match_info["payout_id"]

        def do(body: bytes) -> web.Response:
            action = read_action(body)
            record = self.payouts.payouts.get(payout_id)
            if record is None:
                raise BadRequest("Payout not found", 404)
            before = self.clock.now()
            held = self.payouts.act(record, action)
            self._hide_progress(record.id, "confirm", before)
            return web.json_response({}, status=202 if held else 200)

        # The body shows which of the two calls it is, and faults depend on it.
        body = await request.read()
        call = "cancel" if b'"Cancel"' in body else "confirm"
        return await self._signed(call, request, do)

    async def _transfer(self, request: web.Request) -> web.StreamResponse:
        wallet_id = request.match_info["wallet_id"]

        def do(body: bytes) -> web.Response:
            before = self.clock.now()
            record, held = self.transfers.request(wallet_id, read_transfer(body), read_json(body))
            self._hide_progress(record.id, "transfer", before)
            return web.json_response(record.history.look(), status=202 if held else 200)

        return await self._signed("transfer", request, do)

    async def _payout(self, request: web.Request) -> web.StreamResponse:
        found = self.payouts.payouts.get(request.match_info["payout_id"])
        return await self._plain("payout", request, lambda _: self._show("payout", found))

    async def _transfer_status(self, request: web.Request) -> web.StreamResponse:
        found = self.transfers.transfers.get(request.match_info["transfer_id"])
        if found is not None and found.wallet.id != request.match_info["wallet_id"]:
            found = None
        return await self._plain(
            "transfer_status", request, lambda _: self._show("transfer_status", found)
        )

    async def _list_payouts(self, request: web.Request) -> web.StreamResponse:
        statuses = {
            word for told in request.query.getall("status", []) for word in told.split(",") if word
        }
        wallet_id = request.query.get("walletId")

        def do(_: bytes) -> web.Response:
            items = [
                each.history.look()
                for each in reversed(self.payouts.payouts.values())
                if (not statuses or each.status in statuses) and wallet_id in (None, each.wallet.id)
            ]
            return web.json_response(page_of(request, items))

        return await self._plain("list", request, do)

    async def _assets(self, request: web.Request) -> web.StreamResponse:
        wallet_id = request.match_info["wallet_id"]

        def do(_: bytes) -> web.Response:
            wallet = find_wallet(wallet_id)
            assets = [asset_of(wallet, token, self.ledger) for token in wallet.tokens]
            # Anybody can create a token with any name, and send it to the wallet.
            false = dict.fromkeys({"contract", "mint"} & set(assets[0]), "0x" + "13" * 20)
            assets.append({**assets[0], **false, "verified": False})
            document = {"walletId": wallet.id, "network": wallet.network, "assets": assets}
            return web.json_response(document)

        return await self._plain("balances", request, do)

    async def _list_transfers(self, request: web.Request) -> web.StreamResponse:
        wallet_id = request.match_info["wallet_id"]

        def do(_: bytes) -> web.Response:
            find_wallet(wallet_id)
            items = [
                each.history.look()
                for each in reversed(self.transfers.transfers.values())
                if each.wallet.id == wallet_id
            ]
            return web.json_response({"walletId": wallet_id, **page_of(request, items)})

        return await self._plain("list", request, do)

    async def _plain(
        self, call: str, request: web.Request, do: Callable[[bytes], web.Response]
    ) -> web.StreamResponse:
        """Answer a call that needs no user action."""
        return await self.answer(
            call, request, partial(self._admit, request), partial(self._try, do)
        )

    async def _signed(
        self, call: str, request: web.Request, do: Callable[[bytes], web.Response]
    ) -> web.StreamResponse:
        """Answer a call that needs a user action; accepting it uses up the action's token."""

        def act(body: bytes) -> web.Response:
            return self._try(partial(self._spend_and, do, request), body)

        def spoil() -> None:
            self.actions.spend(request.headers.get("X-DFNS-USERACTION", ""))

        return await self.answer(call, request, partial(self._admit, request), act, spoil)

    def _spend_and(
        self, do: Callable[[bytes], web.Response], request: web.Request, body: bytes
    ) -> web.Response:
        token = self.actions.check(request, body)
        try:
            done = do(body)
        except BadRequest:
            if self._switches.spend_token_on_refusal:
                self.actions.spend(token)
            raise
        self.actions.spend(token)
        return done

    def _admit(self, request: web.Request, _: bytes) -> None:
        self._door.admit(request, self.error)

    def _try(self, do: Callable[[bytes], web.Response], body: bytes) -> web.Response:
        try:
            return do(body)
        except BadRequest as problem:
            return self.error(problem.status, str(problem), problem.details)

    def _hide_progress(self, record_id: str, call: str, before: float) -> None:
        fault = self.faults.take(call, _SHOW_OLD, self.clock.now())
        if fault is not None:
            self._old[record_id] = (self.clock.now() + fault.number("seconds"), before)

    def _show(self, call: str, found: Record | None) -> web.Response:
        now = self.clock.now()
        old = self.faults.take(call, frozenset({"old_state"}), now)
        as_of = old.set_at if old is not None else None
        until, then = self._old.get(found.id, (0.0, 0.0)) if found is not None else (0.0, 0.0)
        if as_of is None and now < until:
            as_of = then
        hidden = old is not None and bool(old.params["hide_new"])
        if found is None or (hidden and as_of is not None and found.history.began() > as_of):
            return self.error(404, "Not found")
        document = found.history.look(as_of)
        altered = self.faults.take(call, frozenset({"alter"}), now)
        return web.json_response(document if altered is None else alter(document, altered))

    async def _register(self, request: web.Request) -> web.Response:
        pem = str((await read_object(request, {"public_key"})).get("public_key"))
        try:
            name = credential_id(pem)
            self.actions.register(name, pem)
        except ValueError:
            raise web.HTTPUnprocessableEntity(text="public_key is no PEM (SPKI)") from None
        return web.json_response({"credential_id": name})

    async def _expire_challenges(self, _: web.Request) -> web.Response:
        self.actions.expire_challenges()
        return web.json_response({})

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        altered = self.faults.take("webhook", frozenset({"alter"}), self.clock.now())
        if altered is not None:
            data = {name: alter(each, altered) for name, each in data.items()}
        self.outbox.post(kind, self.signer.maker(kind, copy.deepcopy(data)))


def _build(options: TwinOptions) -> Twin:
    return DfnsTwin(DfnsSettings(step_s=options.step_s))


def main() -> None:
    """Run the twin from the command line until SIGTERM."""
    run_twin("dfns", _build)


if __name__ == "__main__":
    main()
