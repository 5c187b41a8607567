"""Faults of a configuration and of a request, in plain words."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core.core_schema import ErrorType

from gateway.api.requests import parse_json, validate
from gateway.app import open_gateway
from gateway.config.settings import Settings, load
from gateway.errors import ConfigError, Refused
from gateway.faults import names_at, plain_faults, words_of
from gateway.planning import QuoteRequest
from tests.config.test_settings import GOOD, write

QUOTE = {"external_ref": "x", "asset": "USDC", "amount": "7", "destination": "a"}
#: The validator's own words; nobody reads them.
RAW = ("Input should", "String should", "Value error", "Extra inputs", "Field required", "tag ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"destination": 5}, {"/destination": "must be a string, or an object with a type"}),
        ({"destination": {"type": "zzz"}}, {"/destination": "has an unknown 'type'"}),
        ({"destination": {}}, {"/destination": "must have the member 'type'"}),
        (
            {"destination": {"type": "address", "adress": "x"}},
            {
                "/destination/network": "is missing",
                "/destination/address": "is missing",
                "/destination/adress": "is not known here; did you mean address?",
            },
        ),
        ({"destination": ""}, {"/destination": "must not be empty"}),
        ({"metadta": {}}, {"/metadta": "is not known here; did you mean metadata?"}),
        ({"metadata": {"a": 5}}, {"/metadata/a": "must be a string"}),
        ({"amount": 7}, {"/amount": 'must be a decimal string such as "12.50"'}),
        ({"external_ref": "x" * 300}, {"/external_ref": "may have at most 255 characters"}),
    ],
)
def test_a_request(changed: dict[str, Any], said: dict[str, str]) -> None:
    """Each fault once, at its place, with what to do."""
    with pytest.raises(Refused) as refused:
        validate(QuoteRequest, {**QUOTE, **changed})
    found = {each["pointer"]: each["detail"] for each in refused.value.errors}
    assert set(found) == set(said)
    for pointer, words in said.items():
        assert found[pointer].startswith(words)
        assert not any(each in found[pointer] for each in RAW)


def test_a_configuration(tmp_path: Any) -> None:
    """The closest setting is named, at every depth."""
    text = GOOD.replace("fee =", "fees =") + "[listen]\nprot = 8080\nhost = 5\n[engin]\n"
    (tmp_path / "api-key").write_text("k")
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text), {})
    assert set(refused.value.faults) == {
        "routes.0.fees is not known here; did you mean fee?",
        "listen.prot is not known here; did you mean port?",
        "listen.host must be a string",
        "engin is not known here; did you mean engine?",
    }


@pytest.mark.parametrize("kind", get_args(ErrorType))
def test_no_message_of_the_validator_reaches_anybody(kind: str) -> None:
    """Whatever it finds: our own words, or that the value is not valid."""
    fault = {"type": kind, "loc": ("at",), "msg": "Input should be a library's words", "ctx": {}}
    assert "Input should" not in words_of(fault) or kind in {"value_error", "assertion_error"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": }', "The body is not valid JSON; see line 1, column 7."),
        (b'{"a": NaN}', "The body is not valid JSON: NaN is not JSON."),
        (b'{"a": 1, "a": 2}', "The body is not valid JSON: an object has the same member twice."),
    ],
)
def test_json_that_is_none(body: bytes, said: str) -> None:
    """The place, or the rule, and no message of the parser."""
    with pytest.raises(Refused) as refused:
        parse_json(body)
    assert refused.value.detail == said


async def test_an_unknown_asset_of_a_route(tmp_path: Any) -> None:
    """The gateway does not start: the route would never be taken."""
    text = GOOD.replace("fee =", 'assets = ["USDC", "UDSC"]\nfee =').replace(
        'adapter = "fireblocks"', 'adapter = "nope"'
    )
    text += '[prices]\nsource = "oracle"\n'
    (tmp_path / "api-key").write_text("k")
    with pytest.raises(
        ConfigError, match=r"routes.0.assets: 'UDSC' is not known; known: .*USDC"
    ) as caught:
        async with open_gateway(load(write(tmp_path, text), {})):
            pass
    # With what else is found at this step.
    faults = "\n".join(caught.value.faults)
    assert "custodians.fb_eu" in faults
    assert "prices.source: there is no 'oracle'" in faults


class Odd(BaseModel):
    """Limits of many kinds."""

    model_config = ConfigDict(extra="forbid")
    number: int = Field(default=1, ge=1, le=5)
    part: float = Field(default=1, gt=0, lt=2)
    names: tuple[str, ...] = Field(default=("a",), min_length=1, max_length=2)
    code: str = Field(default="A", pattern="^[A-Z]$")
    yes: bool = True


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"number": 0}, "must be 1 or more"),
        ({"number": 9}, "must be 5 or less"),
        ({"number": "x"}, "must be a whole number"),
        ({"part": 0}, "must be more than 0.0"),
        ({"part": 2}, "must be less than 2.0"),
        ({"names": []}, "must not be empty"),
        ({"names": ["a", "b", "c"]}, "may have at most 2 entries"),
        ({"names": 5}, "must be a list"),
        ({"code": "a"}, "must match the pattern ^[A-Z]$"),
        ({"yes": "perhaps"}, "must be true or false"),
        ({"zzzzzz": 1}, "is not known here; known: code, names, number, part, yes"),
    ],
)
def test_limits(value: dict[str, Any], words: str) -> None:
    """Each with its number."""
    with pytest.raises(ValidationError) as refused:
        Odd.model_validate_json(json.dumps(value))
    (fault,) = plain_faults(refused.value)
    assert words_of(fault, names_at(Odd, fault["loc"])) == words


def test_names_inside() -> None:
    """Of entries of a table and of a list, too."""
    assert "modes" in names_at(Settings, ("custodians", "fb_eu", "mode"))
    assert "basis_points" in names_at(Settings, ("routes", 0, "fee", "x"))
