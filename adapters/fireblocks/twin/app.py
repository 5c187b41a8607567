"""The Fireblocks twin: payouts of the Payments Engine on loopback, strict and steerable.

    python -m adapters.fireblocks.twin.app --host 127.0.0.1 --port 0 --webhook-url URL --step-s 0.2

An independent witness, written from the fireblocks protocol notes; it imports neither the gateway
nor the adapter. The vendor's own Python client works against it unchanged. Beside the control API
of `adapters.twin.control` it has `POST /_twin/webhook-keys {"keep_old": bool}`: sign webhooks with a new key.

Seeded: payment accounts `EX_SUB3` and vault `7` (1 000 000 USDC each), `FIAT1` (1 000 000 USD); a
payee of each kind and the assets in `world`.

A life: REQUESTED, then after execute TRANSLATED, PROCESSING, SUBMITTED, FINALIZED, each a step
(`--step-s`) apart; transactions SUBMITTED, BROADCASTING, CONFIRMING, COMPLETED. An instruction's
state follows its transaction's end by a step, the payout's follows a step later. A queued payout
shows REQUESTED, as one never executed does. The ledger gets its entry when a transaction completes.

A hash is shown for transactions from vaults; from an exchange only towards a vault; for fiat never.

Magic amounts: the fraction of an instruction's amount (e.g. 43.000402) steers it.

| fraction | what happens |
| --- | --- |
| .000401 | waits for funds until a balance is set or midnight UTC |
| .000402 | instruction FAILED before any transaction |
| .000403 | instruction SKIPPED, payout FINALIZED |
| .000404 | instruction TRANSLATION_ERROR |
| .000405 | transaction PENDING_AUTHORIZATION for 30 s, then goes through |
| .000406 | COMPLETED with COMPLETED_BUT_3RD_PARTY_FAILED: moved on chain, not credited |
| .000407 | transaction CONFIRMING for 60 s, then goes through |
| .000408 | words nobody knows, for 3600 s, then goes through |
| .000409 | transaction REJECTED, BLOCKED_BY_POLICY |
| .000410 | transaction FAILED after broadcast, SMART_CONTRACT_EXECUTION_FAILED, nothing moved |
| .000411 | transaction PENDING_AML_SCREENING for 30 s, then REJECTED_AML_SCREENING |

Switches (`PUT /_twin/settings`) are the fields of `FireblocksSettings`; where the vendor says
nothing the default is the worst case. Note `key_scope` `global`: execute with the key of a create
replays the create's answer, a 200 with the `payoutId`, and executes nothing.

Faults (`POST /_twin/faults`) on `create`, `execute`, `status`, `transaction`, `jwks`: `reject`
{status}, `rate_limit` {retry_after_s}, `drop_before`, `error_before` {status}, `error_after`
{status}, `hang_after` {seconds}, `lose_reply`, `half_response`, `bad_json`. On `create` and
`execute` also `burn_key` {done}: the key is refused as if an earlier attempt had failed inside,
carried out if `done`. On `execute` also `fail_payout` {reason}: accepted, then FAILED with that
`reasonOfFailure`. On `status` and `transaction` also `old_state` {seconds, hide_new}: for so long,
reads show each object as it was when the fault was set; one made since shows its first state, or
404 with `hide_new`. On `webhook`: `duplicate` {copies}, `delay` {seconds}, `reorder` {seconds},
`forge` {how}, `drop`. A 5xx given by a fault burns the request's key.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.fireblocks.twin import account_views
from adapters.fireblocks.twin.auth import ApiUser, Gate, make_key
from adapters.fireblocks.twin.idempotency import KeyBook
from adapters.fireblocks.twin.payouts import PayoutBook
from adapters.fireblocks.twin.records import Payout, Transaction
from adapters.fireblocks.twin.requests import BadRequest, read_create
from adapters.fireblocks.twin.webhooks import RETRY_DELAYS_S, WebhookSigner, is_retried
from adapters.fireblocks.twin.world import (
    ASSETS,
    BALANCES,
    REASONS,
    SOURCES,
    FireblocksSettings,
)
from adapters.twin.base import Twin, TwinSettings
from adapters.twin.clock import TwinClock
from adapters.twin.control import read_object
from adapters.twin.faults import WEBHOOK_FAULTS, FaultBook, FaultKind, http_faults
from adapters.twin.ledger import Ledger
from adapters.twin.outbox import Outbox
from adapters.twin.runner import TwinOptions, run_twin

_CALLS = ("create", "execute", "status", "transaction", "balances", "jwks")
_POSTS = ("create", "execute")
_READS = frozenset({"status", "transaction"})
_FAULTS = (
    *http_faults(_CALLS, _POSTS),
    *WEBHOOK_FAULTS,
    FaultKind("old_state", _READS, {"seconds": 5.0, "hide_new": False}, window=True),
    FaultKind(
        "fail_payout",
        frozenset({"execute"}),
        {"reason": "FIREBLOCKS_CLIENT"},
        choices={"reason": REASONS},
    ),
)
_ERROR_TYPES = {
    401: "AUTHENTICATION",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    422: "UNPROCESSABLE_ENTITY",
}
_SHOWN_FOR_S = 3600


class FireblocksTwin(Twin):
    """One workspace of Fireblocks, with one API user."""

    api_prefix = "/v1"

    def __init__(
        self,
        settings: FireblocksSettings | None = None,
        base_time: Callable[[], float] = time.time,
        new_key: Callable[[], rsa.RSAPrivateKey] = make_key,
    ) -> None:
        clock, faults = TwinClock(base_time), FaultBook(_FAULTS)
        self._signer = WebhookSigner(clock, new_key(), new_key())
        outbox = Outbox(clock, faults, RETRY_DELAYS_S, is_retried, self._signer.forge)
        super().__init__(
            clock, Ledger(clock, BALANCES), faults, outbox, settings or FireblocksSettings()
        )
        self.user = ApiUser(str(uuid.uuid4()), new_key())
        self._gate = Gate(self.user, clock.shared)
        self._keys = KeyBook(clock.now, partial(self.error, 400))
        self._book = PayoutBook(clock, self.ledger, self._tell)
        self.settings_changed(self.settings)

    def credentials(self, control_url: str) -> dict[str, str]:
        """Return the API user's key and secret, and where webhook keys are found."""
        return {
            "api_key": self.user.api_key,
            "private_key": self.user.private_pem(),
            "jwks_url": f"{control_url}/.well-known/jwks.json",
            "webhook_v1_public_key": self._signer.v1_public_pem(),
            "workspace_id": self._signer.workspace_id,
        }

    def error(self, status: int, message: str) -> web.Response:
        """Return a refusal: 429 in the gateway's shape, others in that of the payments API."""
        if status == 429:
            return web.json_response({"message": message, "code": status}, status=status)
        kind = "INTERNAL" if status >= 500 else _ERROR_TYPES.get(status, "VALIDATION")
        return web.json_response({"error": {"type": kind, "message": message}}, status=status)

    def add_routes(self, app: web.Application) -> None:
        """Add the calls of the API, the JWKS, and key rotation."""
        add = app.router
        add.add_post("/v1/payments/payout", self._create)
        add.add_post("/v1/payments/payout/{payout_id}/actions/execute", self._execute)
        add.add_get("/v1/payments/payout/{payout_id}", self._status, allow_head=False)
        add.add_get("/v1/transactions/{transaction_id}", self._transaction, allow_head=False)
        for path in account_views.PATHS:
            show = partial(self._balances, path)
            add.add_get(f"/v1/{path}/{{account_id}}", show, allow_head=False)
        add.add_get("/.well-known/jwks.json", self._jwks)
        add.add_post("/_twin/webhook-keys", self._rotate_keys)

    def empty(self) -> None:
        """Forget payouts, idempotency keys and nonces."""
        self._book.clear()
        self._keys.clear()
        self._gate.forget_nonces()

    def funded(self, account: str, asset: str) -> None:
        """Let a payout that waits for funds check again."""
        self._book.funded(account, asset)

    def knows_account(self, account: str, asset: str) -> bool:
        """Say whether it is a payment account and an asset of this workspace."""
        return account in {id_ for _, id_ in SOURCES} and asset in ASSETS

    def settings_changed(self, settings: TwinSettings) -> None:
        """Hand the switches to the parts they steer."""
        if not isinstance(settings, FireblocksSettings):
            raise TypeError(type(settings).__name__)
        self._book.settings = settings
        self._gate.skew_s = settings.skew_s
        self._gate.shape = settings.shape_401
        self._keys.scope = settings.key_scope
        self._keys.other_body = settings.key_body
        self._keys.remember_refusals = settings.replay_4xx
        self._signer.format = settings.webhook_format

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self._post("create", request, self._do_create)

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        payout_id = request.match_info["payout_id"]
        return await self._post("execute", request, partial(self._do_execute, payout_id))

    async def _status(self, request: web.Request) -> web.StreamResponse:
        found = self._book.payouts.get(request.match_info["payout_id"])
        return await self._get("status", request, partial(self._show, "status", found))

    async def _transaction(self, request: web.Request) -> web.StreamResponse:
        found = self._book.transactions.get(request.match_info["transaction_id"])
        return await self._get("transaction", request, partial(self._show, "transaction", found))

    async def _balances(self, path: str, request: web.Request) -> web.StreamResponse:
        account_id = request.match_info["account_id"]

        def show() -> web.Response:
            found = account_views.show(path, account_id, self.ledger)
            if found is None:
                return web.json_response({"message": "Not found", "code": 404}, status=404)
            return web.json_response(found)

        return await self._get("balances", request, show)

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        def show(_: bytes) -> web.Response:
            headers = {"Cache-Control": f"public, max-age={_SHOWN_FOR_S}"}
            return web.json_response(self._signer.jwks(), headers=headers)

        return await self.answer("jwks", request, lambda _: None, show)

    async def _post(
        self, call: str, request: web.Request, do: Callable[[bytes], web.Response]
    ) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key")

        def act(body: bytes) -> web.Response:
            return self._keys.run(call, key, body, partial(self._try, do, body))

        def spoil() -> None:
            self._keys.burn(call, key)

        return await self.answer(call, request, partial(self._gate.admit, request), act, spoil)

    async def _get(
        self, call: str, request: web.Request, show: Callable[[], web.Response]
    ) -> web.StreamResponse:
        return await self.answer(
            call, request, partial(self._gate.admit, request), lambda _: show()
        )

    def _try(self, do: Callable[[bytes], web.Response], body: bytes) -> web.Response:
        try:
            return do(body)
        except BadRequest as problem:
            return self.error(400, str(problem))

    def _do_create(self, body: bytes) -> web.Response:
        payout = self._book.create(read_create(body))
        # The status is 200 and not 201, because the official clients accept no other success.
        return web.json_response(payout.history.look())

    def _do_execute(self, payout_id: str, body: bytes) -> web.Response:
        if body:
            raise BadRequest("execute takes no body")
        self._book.execute(payout_id, self._reason_ahead)
        return web.json_response({"payoutId": payout_id})

    def _reason_ahead(self) -> str | None:
        fault = self.faults.take("execute", frozenset({"fail_payout"}), self.clock.now())
        return None if fault is None else fault.word("reason")

    def _show(self, call: str, found: Payout | Transaction | None) -> web.Response:
        old = self.faults.take(call, frozenset({"old_state"}), self.clock.now())
        hidden = old is not None and bool(old.params["hide_new"])
        if found is None or (old and hidden and found.history.began() > old.set_at):
            if call == "transaction":
                return web.json_response({"message": "Not found", "code": 404}, status=404)
            return self.error(404, "payout was not found")
        shown = web.json_response(found.history.look(old.set_at if old else None))
        if call == "transaction":
            shown.headers["X-Request-ID"] = str(uuid.uuid4())
        return shown

    async def _rotate_keys(self, request: web.Request) -> web.Response:
        keep_old = (await read_object(request, {"keep_old"})).get("keep_old", True)
        return web.json_response({"kid": self._signer.rotate(keep_old=bool(keep_old))})

    def _tell(self, event: str, details: dict[str, Any]) -> None:
        message = self._signer.message(event, details)
        # A repeat is the same notification, with the same id and the same bytes.
        self.outbox.post(event, lambda _: message)


def _build(options: TwinOptions) -> Twin:
    return FireblocksTwin(FireblocksSettings(step_s=options.step_s))


def main() -> None:
    """Run the twin from the command line until SIGTERM."""
    run_twin("fireblocks", _build)


if __name__ == "__main__":
    main()
