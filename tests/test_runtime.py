"""Identifiers: those of the library, in the same order as they were made."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st
from typeid import TypeID

from gateway.runtime import Ids, uuid_bytes_of
from tests.clock import SetClock


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.binary(min_size=10, max_size=10),
)
def test_an_id_is_the_librarys_own(at: datetime, drawn: bytes) -> None:
    """It is a TypeID over a UUID of version 7, with the time and the randomness that went in."""
    made = Ids(SetClock(at), lambda _: drawn).new("pay")
    parsed = TypeID.from_string(made)
    uuid = UUID(bytes=parsed.uuid_bytes)
    assert str(TypeID.from_uuid(parsed.uuid, "pay")) == made
    assert (parsed.prefix, uuid.version, uuid.variant) == ("pay", 7, "specified in RFC 4122")
    assert uuid.int >> 80 == int(at.timestamp() * 1000)


def test_ids_rise_within_a_millisecond_and_when_the_clock_steps_back() -> None:
    """As texts: lists and indexes go by them."""
    clock = SetClock(datetime(2026, 3, 2, tzinfo=UTC))
    ids = Ids(clock, lambda count: b"\xff" * count)
    made = [ids.new("evt") for _ in range(3)]
    clock.step(-5)
    made += [ids.new("evt") for _ in range(3)]
    assert made == sorted(set(made))


@given(st.binary(min_size=16, max_size=16))
def test_the_bytes_of_an_id_are_those_that_the_library_reads(raw: bytes) -> None:
    """Tracking addresses are made of them: they must not change."""
    made = str(TypeID.from_uuid(uuid_utils.UUID(bytes=raw), "pay"))
    assert uuid_bytes_of(made) == raw == TypeID.from_string(made).uuid_bytes


@pytest.mark.parametrize(
    "text", ["", "pay_", "pay_x", "pay_" + "u" * 26, "pay_" + "z" * 26, "é" * 26]
)
def test_what_is_no_id_has_no_bytes(text: str) -> None:
    """Too short, digits that there are none of, more than 128 bits."""
    with pytest.raises(ValueError, match="identifier"):
        uuid_bytes_of(text)
