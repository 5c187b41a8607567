"""Checks the shape, patterns and values of calls to the Dfns twin strictly.

Source: dfns protocol notes, §2 (patterns, create, action), §5 (transfers), §6 (user action).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from adapters.dfns.twin.world import PURPOSES


class BadRequest(Exception):
    """The request is not acceptable; the message says why, `status` is the answer's."""

    def __init__(self, message: str, status: int = 400, details: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel)


WalletId = Annotated[str, Field(pattern=r"^wa-[a-z0-9]{5}-[a-z0-9]{5}-[a-z0-9]{14,16}$")]
Digits = Annotated[str, Field(pattern=r"^\d+$", max_length=80)]
EvmAddress = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
SolanaAddress = Annotated[str, Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{32,44}$")]
Words = Annotated[str, Field(min_length=1, max_length=255)]
ExternalId = Annotated[str, Field(min_length=1, max_length=50)]


class Erc20Asset(_Strict):
    """An ERC-20 amount."""

    kind: Literal["Erc20"]
    amount: Digits
    contract: Words

    @property
    def place(self) -> str:
        """Return the contract."""
        return self.contract


class SplAsset(_Strict):
    """An SPL or SPL-2022 amount."""

    kind: Literal["Spl", "Spl2022"]
    amount: Digits
    mint: Words

    @property
    def place(self) -> str:
        """Return the mint."""
        return self.mint


PayoutAsset = Annotated[Erc20Asset | SplAsset, Field(discriminator="kind")]
Fiat = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class QuotePayout(_Strict):
    """The body of the quote call."""

    wallet_id: WalletId
    asset: PayoutAsset
    fiat_currency: Fiat
    provider: Literal["Borderless"]
    country: Country


class CreatePayout(QuotePayout):
    """The body of the create call."""

    borderless_account_id: Words
    payment_instructions_id: Words
    payment_purpose: str
    external_id: ExternalId | None = None


class Erc20Transfer(Erc20Asset):
    """The transfer that a Confirm echoes."""

    to: EvmAddress


class SplTransfer(SplAsset):
    """The transfer that a Confirm echoes."""

    to: SolanaAddress


class Confirm(_Strict):
    """The action that confirms exactly this transfer."""

    action: Literal["Confirm"]
    wallet_id: WalletId
    transfer: Annotated[Erc20Transfer | SplTransfer, Field(discriminator="kind")]


class Cancel(_Strict):
    """The action that cancels the payout."""

    action: Literal["Cancel"]


class TravelRule(_Strict):
    """What a travel rule provider wants to know of both sides; its own members are not checked."""

    kind: Literal["Notabene"]
    # The only member name with several capitals in a row.
    beneficiary_vasp_did: Annotated[str | None, Field(alias="beneficiaryVASPdid")] = None
    beneficiary_proof: dict[str, Any] | None = None
    originator: dict[str, Any]
    beneficiary: dict[str, Any]


class _Transfer(_Strict):
    to: Words
    amount: Digits
    external_id: ExternalId | None = None
    fee_sponsor_id: str | None = None
    travel_rule: TravelRule | None = None
    memo: str | None = None
    create_destination_account: bool | None = None
    use_durable_nonce: bool | None = None

    @property
    def place(self) -> str | None:
        """Return the contract or mint; None for the network's own coin."""
        return None


class NativeTransfer(_Transfer):
    """A wallet transfer of the network's own coin."""

    kind: Literal["Native"]
    gas_limit: str | None = None
    gas_price: str | None = None
    max_fee_per_gas: str | None = None
    max_priority_fee_per_gas: str | None = None
    priority: Literal["Slow", "Standard", "Fast"] | None = None


class Erc20WalletTransfer(_Transfer):
    """A wallet transfer of an ERC-20."""

    kind: Literal["Erc20"]
    contract: Words
    to: EvmAddress
    # A token of these networks has no memo, and needs neither of the other members.
    memo: None = None
    create_destination_account: None = None
    use_durable_nonce: None = None
    gas_limit: str | None = None
    gas_price: str | None = None
    max_fee_per_gas: str | None = None
    max_priority_fee_per_gas: str | None = None
    priority: Literal["Slow", "Standard", "Fast"] | None = None

    @property
    def place(self) -> str | None:
        """Return the contract."""
        return self.contract


class SplWalletTransfer(_Transfer):
    """A wallet transfer of an SPL token."""

    kind: Literal["Spl", "Spl2022"]
    mint: Words
    to: SolanaAddress

    @property
    def place(self) -> str | None:
        """Return the mint."""
        return self.mint


Transfer = Annotated[
    NativeTransfer | Erc20WalletTransfer | SplWalletTransfer, Field(discriminator="kind")
]


class InitAction(_Strict):
    """The body of `POST /auth/action/init`."""

    user_action_payload: str
    user_action_http_method: Literal["POST", "PUT", "DELETE", "GET"]
    user_action_http_path: Annotated[str, Field(pattern=r"^/")]
    user_action_server_kind: Literal["Api"] = "Api"


class KeyAssertion(_Strict):
    """The signature of a key."""

    cred_id: Words
    client_data: Annotated[str, Field(min_length=1, max_length=4096)]
    signature: Annotated[str, Field(min_length=1, max_length=4096)]
    algorithm: str | None = None


class KeyFactor(_Strict):
    """A first factor that is a key."""

    kind: Literal["Key"]
    credential_assertion: KeyAssertion


class SignAction(_Strict):
    """The body of `POST /auth/action`."""

    challenge_identifier: Words
    first_factor: KeyFactor


ModelT = TypeVar("ModelT")
_ACTIONS: TypeAdapter[Confirm | Cancel] = TypeAdapter(
    Annotated[Confirm | Cancel, Field(discriminator="action")]
)
_TRANSFERS: TypeAdapter[NativeTransfer | Erc20WalletTransfer | SplWalletTransfer] = TypeAdapter(
    Transfer
)


def read_json(body: bytes) -> Any:
    """Return the body as JSON, or raise BadRequest."""
    try:
        return json.loads(body)
    except ValueError:
        raise BadRequest("body is not JSON") from None


def _read(adapter: TypeAdapter[ModelT], body: bytes) -> ModelT:
    try:
        return adapter.validate_python(read_json(body))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadRequest(f"{where}: {first['msg']}") from None


def read_quote(body: bytes) -> QuotePayout:
    """Read the quote call's body."""
    return _read(TypeAdapter(QuotePayout), body)


def read_create(body: bytes) -> CreatePayout:
    """Read the create call's body."""
    wanted = _read(TypeAdapter(CreatePayout), body)
    if wanted.payment_purpose not in PURPOSES:
        raise BadRequest("paymentPurpose: not one of the known purposes")
    return wanted


def read_action(body: bytes) -> Confirm | Cancel:
    """Read the action call's body."""
    return _read(_ACTIONS, body)


def read_transfer(body: bytes) -> NativeTransfer | Erc20WalletTransfer | SplWalletTransfer:
    """Read the transfer call's body."""
    return _read(_TRANSFERS, body)


def read_init(body: bytes) -> InitAction:
    """Read the body of the first signing call."""
    return _read(TypeAdapter(InitAction), body)


def read_sign(body: bytes) -> SignAction:
    """Read the body of the second signing call."""
    return _read(TypeAdapter(SignAction), body)


def page_of(request: web.Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the page of a list that the query asks for.

    Its token is opaque and valid only for the same list. It is base64 with all special characters of
    that alphabet, so that a client that does not percent-encode it gets no second page.
    """
    told, token = request.query.get("limit", "50"), request.query.get("paginationToken")
    if not (told.isascii() and told.isdigit() and 1 <= int(told) <= 50):
        raise BadRequest("limit: from 1 to 50")
    start = 0 if token is None else _start_of(token, request.path)
    end = start + int(told)
    page: dict[str, Any] = {"items": items[start:end]}
    if end < len(items):
        page["nextPageToken"] = _page_token(end, request.path)
    return page


def _page_token(start: int, path: str) -> str:
    # The first three bytes are written as `+++/`, and a multiple of three plus one ends with `==`.
    bound = hashlib.sha256(path.encode()).digest()[:6]
    return base64.b64encode(b"\xfb\xef\xbf" + bound + start.to_bytes(4)).decode()


def _start_of(token: str, path: str) -> int:
    try:
        start = int.from_bytes(base64.b64decode(token, validate=True)[9:])
    except ValueError:
        start = -1
    if start < 0 or token != _page_token(start, path):
        raise BadRequest("paginationToken: not one of this list's")
    return start
