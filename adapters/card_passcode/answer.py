"""Reads a person's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from gateway.adapter import UnreadableAnswer

_Words = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Token(_Strict):
    code: Annotated[SecretStr, Field(min_length=1, max_length=64)]
    phone: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{7,14}$")] | None = None
    user_id: _Words | None = None


class _Device(_Strict):
    name: _Words | None = None
    type: _Words | None = None
    platform: _Words | None = None
    user_agent: _Words | None = None
    client_ip: _Words | None = None


class _Passcode(_Strict):
    token: _Token
    device: _Device = _Device()


class _Answer(_Strict):
    passcode: _Passcode
    type: Literal["enter_passcode"] = "enter_passcode"


@dataclass(frozen=True)
class Given:
    """A passcode as it was given. The code is for one call only; the rest is remembered."""

    code: SecretStr
    owner: Mapping[str, str]
    device: Mapping[str, str]


def read_answer(
    answer: Mapping[str, Any],
    owner: Mapping[str, str],
    device: Mapping[str, str],
    *,
    both_ids: bool = False,
) -> Given:
    """Read an answer; owner and device have defaults for each member. Raises UnreadableAnswer.

    `both_ids` allows a phone number together with a user id.
    """
    try:
        given = _Answer.model_validate(answer).passcode
    except ValidationError as problem:
        fields = [".".join(str(part) for part in each["loc"]) for each in problem.errors()]
        raise UnreadableAnswer(tuple(dict.fromkeys(fields))) from None
    named = given.token.model_dump(include={"phone", "user_id"}, exclude_none=True)
    whose = named or dict(owner)
    if not whose or (len(whose) > 1 and not both_ids):
        raise UnreadableAnswer(("passcode.token",))
    return Given(given.token.code, whose, {**device, **given.device.model_dump(exclude_none=True)})
