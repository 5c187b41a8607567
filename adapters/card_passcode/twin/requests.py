"""Checks the shape and values of calls strictly, and makes refusals in FastAPI's shape.

Source: card-passcode protocol notes, §2 to §5 (fields), §7 (errors).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

_LEAST, _MOST = Decimal("0.01"), Decimal(10) ** 12
M = TypeVar("M", bound=BaseModel)


class Unprocessable(Exception):
    """A 422 with the wrong fields and the error of each."""

    def __init__(self, detail: Sequence[dict[str, Any]]) -> None:
        super().__init__("; ".join(str(each["msg"]) for each in detail))
        self.detail = list(detail)


class Forbidden(Exception):
    """A 403; its detail is a text."""


def refuse(field: str, message: str, kind: str = "value_error") -> Unprocessable:
    """Return a 422 about one field of the body, e.g. `passcode.token`."""
    return Unprocessable([{"loc": ["body", *field.split(".")], "msg": message, "type": kind}])


def _read_amount(value: object) -> object:
    """Take a JSON number or a numeric text."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError("value is not a valid number")  # noqa: TRY004 - pydantic reads ValueError
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError("value is not a valid number") from None
    if not amount.is_finite() or amount < _LEAST:
        raise ValueError("ensure this value is greater than or equal to 0.01")
    if amount >= _MOST:
        raise ValueError("ensure this value is less than 1000000000000")
    return amount


def _check_v4(text: str) -> str:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        raise ValueError("invalid uuid") from None
    if str(parsed) != text.lower() or parsed.version != 4:
        raise ValueError("uuid version 4 expected")
    return str(parsed)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Words = Annotated[str, Field(min_length=1, max_length=255)]
_Digits = Annotated[str, Field(pattern=r"^[1-9][0-9]{7,14}$")]
_Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class ObtainToken(_Strict):
    """The body of the token call."""

    client_id: str
    client_secret: str


class CreateParty(_Strict):
    """The body of the party call."""

    fullname: _Words
    phone: _Digits
    email: str | None = None
    country_code: _Country | None = None


class CreateCounterparty(_Strict):
    """The body of the counterparty call."""

    relationship_type: Literal[
        "CUSTOMER",
        "SUPPLIER",
        "EMPLOYEE",
        "BENEFICIARY",
        "FRIEND",
        "FAMILY",
        "DONOR",
        "DONEE",
        "CONTACT",
        "SERVICE_PROVIDER",
        "PARTNER",
        "SELF",
    ]
    party_id: int | None = None


class CreateAccount(_Strict):
    """The body of the payment account call."""

    account_name: _Words
    provider: Literal["MTN_MOMO_LBR", "ORANGE_MONEY_LBR", "PAWAPAY", "STRIPE", "PLATFORM"]
    method: Literal[
        "MTN_MOMO_LBR",
        "ORANGE_MONEY_LBR",
        "AIRTEL_RWA",
        "MTN_MOMO_RWA",
        "ORANGE_MONEY_RWA",
        "CREDIT_CARD",
        "WALLET",
    ]
    party_id: int
    country_code: _Country | None = None
    insensitive_account_number: str | None = None


class CreateSession(_Strict):
    """The body of the payout session call."""

    payout_account_id: int
    amount: Annotated[Decimal, BeforeValidator(_read_amount)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class SendCode(_Strict):
    """The body of the call that sends a one-time code."""

    session_id: str
    channel: Literal["sms", "email", "totp"]


class Token(_Strict):
    """A passcode and its owner."""

    code: Annotated[str, Field(min_length=1, max_length=64)]
    phone: str | None = None
    user_id: str | None = None


class Device(_Strict):
    """The device, which is kept for audit; every field is required."""

    name: _Words
    type: _Words
    platform: _Words
    user_agent: _Words
    client_ip: _Words


class Passcode(_Strict):
    """The approver of the payout, with the device."""

    token: Token
    device: Device


class Execute(_Strict):
    """The body of the payout execution."""

    session_id: str
    payout_account_id: str
    reference_id: Annotated[str, AfterValidator(_check_v4)]
    passcode: Passcode

    def content(self) -> dict[str, Any]:
        """Return the content that identifies the payout: everything except the code."""
        return self.model_dump(exclude={"passcode": {"token": {"code": True}}})


def read_body(model: type[M], body: bytes, *, echo_input: bool) -> M:
    """Read a call's body, or raise Unprocessable; with `echo_input` it repeats what was sent."""
    try:
        document = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise Unprocessable(
            [{"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}]
        ) from None
    try:
        return model.model_validate(document)
    except ValidationError as problem:
        raise Unprocessable(
            [_fault(each, echo_input=echo_input) for each in problem.errors(include_url=False)]
        ) from None


def _fault(error: Any, *, echo_input: bool) -> dict[str, Any]:
    told = {
        "loc": ["body", *error["loc"]],
        "msg": re.sub(r"^Value error, ", "", error["msg"]),
        "type": error["type"],
    }
    if echo_input:
        told["input"] = json.loads(json.dumps(error["input"], default=str))
    return told
