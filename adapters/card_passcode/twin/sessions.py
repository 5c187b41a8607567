"""Parties, payout accounts, sessions and one-time codes of the card-passcode twin.

Source: card-passcode protocol notes, §3 (accounts), §4 (sessions), §8.2 (passcodes, both grades).
"""

from __future__ import annotations

import hmac
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from adapters.card_passcode.twin.requests import (
    CreateAccount,
    CreateCounterparty,
    CreateParty,
    CreateSession,
    SendCode,
    Token,
    refuse,
)
from adapters.card_passcode.twin.world import (
    ACCOUNTS,
    CODE_LENGTH,
    CODE_LIFE_S,
    MOST_ATTEMPTS,
    MOST_SENDS,
    PHONE,
    RESEND_AFTER_S,
    USER_ID,
    WALLETS,
    CardPasscodeSettings,
)
from adapters.twin.clock import TwinClock

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def stamp(seconds: float) -> str:
    """Return a time as the provider writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass
class Account:
    """A payout account."""

    id: int
    name: str
    active: bool
    one_time_code: bool
    operation_type: str = "PAYOUT"


@dataclass
class Challenge:
    """A one-time code on its way to its owner."""

    code: str
    sent_at: float
    sends: int = 1


@dataclass
class Session:
    """A payout session."""

    id: int
    account: Account
    amount: Decimal
    currency: str
    created_at: float
    expires_at: float
    status: str = "active"
    #: Wrong passcodes so far.
    wrong: int = 0
    challenge: Challenge | None = None

    def document(self, written: object) -> dict[str, Any]:
        """Return the session as JSON; `written` is the amount in the format of answers."""
        return {
            "id": self.id,
            "wallet_id": WALLETS[self.currency],
            "payout_account_id": self.account.id,
            "amount": written,
            "currency": self.currency,
            "status": self.status,
            "expires_at": stamp(self.expires_at),
            "created_at": stamp(self.created_at),
            "updated_at": stamp(self.created_at),
        }


class SessionBook:
    """The merchant's registered parties and accounts, and its sessions."""

    def __init__(
        self, clock: TwinClock, inbox: list[dict[str, str]], random: Callable[[int], bytes]
    ) -> None:
        self._clock = clock
        self._inbox = inbox
        self._random = random
        #: The merchant's standing passcode.
        self.passcode = "".join(_LETTERS[byte % 36] for byte in random(10))
        self.settings = CardPasscodeSettings()
        self.clear()

    def clear(self) -> None:
        """Go back to the seeded accounts; no sessions."""
        self.accounts = {
            id_: Account(id_, each.name, each.active, each.one_time_code)
            for id_, each in ACCOUNTS.items()
        }
        self.sessions: dict[int, Session] = {}
        self._party_ids = {41, 42}
        self._ids = itertools.count(43)

    def create_party(self, wanted: CreateParty) -> dict[str, Any]:
        """Register a person."""
        id_ = next(self._ids)
        self._party_ids.add(id_)
        return {"id": id_, **wanted.model_dump(), **self._made()}

    def create_counterparty(self, wanted: CreateCounterparty) -> dict[str, Any]:
        """Register the role of a party for the merchant."""
        if wanted.party_id is not None and wanted.party_id not in self._party_ids:
            raise refuse("party_id", "party not found")
        return {"id": next(self._ids), **wanted.model_dump(), **self._made()}

    def create_account(self, wanted: CreateAccount, operation_type: str) -> dict[str, Any]:
        """Register an account of a party."""
        if wanted.party_id not in self._party_ids:
            raise refuse("party_id", "party not found")
        id_ = next(self._ids)
        self.accounts[id_] = Account(
            id_,
            wanted.account_name,
            active=True,
            one_time_code=False,
            operation_type=operation_type,
        )
        return {"id": id_, **wanted.model_dump(), "is_active": True, **self._made()}

    def create_session(self, wanted: CreateSession) -> Session:
        """Open a session. Raises Unprocessable."""
        account = self.accounts.get(wanted.payout_account_id)
        if account is None or account.operation_type != "PAYOUT":
            raise refuse("payout_account_id", "payout account not found")
        if not account.active:
            raise refuse("payout_account_id", "payout account is not active")
        if wanted.currency not in WALLETS:
            raise refuse("currency", "no wallet in this currency")
        if wanted.amount != round(wanted.amount, 2):
            raise refuse("amount", "ensure that there are no more than 2 decimal places")
        now = self._clock.now()
        session = Session(
            next(self._ids),
            account,
            wanted.amount,
            wanted.currency,
            now,
            now + self.settings.session_life_s,
        )
        self.sessions[session.id] = session
        return session

    def find(self, text: str) -> Session:
        """Return the open session of an id sent as text. Raises Unprocessable."""
        number = int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else 0
        found = self.sessions.get(number)
        if found is None:
            raise refuse("session_id", "session not found")
        if found.status == "active" and self._clock.now() >= found.expires_at:
            found.status = "expired"
        if found.status != "active":
            raise refuse("session_id", f"session is {found.status}")
        return found

    def send_code(self, wanted: SendCode) -> dict[str, Any]:
        """Send a one-time code to the inbox; a later one replaces it. Raises Unprocessable."""
        session = self.find(wanted.session_id)
        if not session.account.one_time_code:
            raise refuse("session_id", "this payout account takes the standing passcode")
        now, earlier = self._clock.now(), session.challenge
        if earlier is not None and earlier.sends >= MOST_SENDS:
            raise refuse("session_id", "no more codes for this session")
        if earlier is not None and now < earlier.sent_at + RESEND_AFTER_S:
            raise refuse("session_id", f"a code was sent less than {RESEND_AFTER_S} s ago")
        code = "".join(_LETTERS[byte % 36] for byte in self._random(CODE_LENGTH))
        sends = 1 if earlier is None else earlier.sends + 1
        session.challenge = Challenge(code, now, sends)
        self._inbox.append(
            {
                "to": PHONE,
                "channel": wanted.channel,
                "session_id": str(session.id),
                "payout_account_id": str(session.account.id),
                "amount": f"{session.amount:f}",
                "currency": session.currency,
                "code": code,
                "at": self._clock.stamp(),
            }
        )
        return {
            "challenge_id": f"chl_{session.id}_{sends}",
            "expires_at": stamp(min(now + CODE_LIFE_S, session.expires_at)),
            "resend_after": stamp(now + RESEND_AFTER_S),
            "masked_target": f"+{PHONE[:3]}••••{PHONE[-4:]}",
        }

    def passcode_fits(self, session: Session, token: Token) -> bool:
        """Judge a passcode; a wrong one counts, and the fifth locks the session.

        The answer is the same whether the owner, the code or its time was wrong.
        """
        ours = token.phone in {None, PHONE} and token.user_id in {None, USER_ID}
        expected, alive = self.passcode, True
        if session.account.one_time_code:
            challenge = session.challenge
            expected = "" if challenge is None else challenge.code
            alive = challenge is not None and self._clock.now() < challenge.sent_at + CODE_LIFE_S
        right = hmac.compare_digest(token.code.encode(), expected.encode())
        if right and ours and alive:
            return True
        session.wrong += 1
        if session.wrong >= MOST_ATTEMPTS:
            session.status = "locked"
        return False

    def check_owner(self, token: Token) -> None:
        """Check that the passcode names exactly one owner. Raises Unprocessable."""
        named = [each for each in (token.phone, token.user_id) if each is not None]
        if not named:
            raise refuse("passcode.token", "phone or user_id is required")
        if len(named) == 2 and self.settings.both_ids == "refuse":
            raise refuse("passcode.token", "phone and user_id exclude each other")

    def _made(self) -> dict[str, str]:
        now = stamp(self._clock.now())
        return {"created_at": now, "updated_at": now}
