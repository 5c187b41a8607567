"""Checks the shape, values and amounts of the create call strictly."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from adapters.fireblocks.twin.world import ASSETS, PAYEES, SOURCES

_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")


class BadRequest(Exception):
    """The request is not acceptable; the message says why, `reason` in the payout's words."""

    def __init__(self, message: str, reason: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.reason = reason


def _check_amount(text: str) -> str:
    if not _DECIMAL.fullmatch(text) or Decimal(text) == 0:
        raise ValueError("must be a decimal number above zero, without sign or exponent")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel)


_Id = Annotated[str, Field(min_length=1, max_length=255)]


class PaymentAccount(_Strict):
    """The account that pays."""

    id: _Id
    type: Literal["VAULT_ACCOUNT", "EXCHANGE_ACCOUNT", "FIAT_ACCOUNT"]


class PayeeAccount(_Strict):
    """The account that is paid."""

    id: _Id
    type: Literal[
        "VAULT_ACCOUNT",
        "EXCHANGE_ACCOUNT",
        "INTERNAL_WALLET",
        "EXTERNAL_WALLET",
        "NETWORK_CONNECTION",
        "FIAT_ACCOUNT",
    ]


class InstructionAmount(_Strict):
    """The amount, in whole units of the asset."""

    amount: Annotated[str, Field(max_length=80), AfterValidator(_check_amount)]
    asset_id: _Id


class Instruction(_Strict):
    """One payment of the set."""

    id: _Id | None = None
    payee_account: PayeeAccount
    amount: InstructionAmount


class CreatePayout(_Strict):
    """The body of the create call."""

    payment_account: PaymentAccount
    instruction_set: Annotated[list[Instruction], Field(min_length=1)]


def read_create(body: bytes) -> CreatePayout:
    """Read the create call's body, or raise BadRequest."""
    try:
        document = json.loads(body)
    except ValueError:
        raise BadRequest("body is not JSON") from None
    try:
        wanted = CreatePayout.model_validate(document)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadRequest(f"{where}: {first['msg']}") from None
    ids = [instruction.id for instruction in wanted.instruction_set if instruction.id is not None]
    if len(set(ids)) != len(ids):
        raise BadRequest("instructionSet: an instruction id occurs twice")
    return wanted


def check_references(wanted: CreatePayout) -> None:
    """Raise BadRequest when the workspace lacks an account, a payee or an asset named here."""
    account = wanted.payment_account
    if (account.type, account.id) not in SOURCES:
        raise BadRequest("paymentAccount was not found", "SOURCE_NOT_FOUND")
    for instruction in wanted.instruction_set:
        payee, amount = instruction.payee_account, instruction.amount
        if (payee.type, payee.id) not in PAYEES:
            raise BadRequest(f"payeeAccount {payee.id} was not found", "DESTINATION_NOT_FOUND")
        if amount.asset_id not in ASSETS:
            raise BadRequest(f"asset {amount.asset_id} is not supported", "PARSING")
        if len(amount.amount.partition(".")[2]) > ASSETS[amount.asset_id]:
            raise BadRequest(f"amount has more decimals than {amount.asset_id}", "PARSING")
