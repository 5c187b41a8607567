"""Payouts by session, passcode and execution.

Opening a session moves nothing; the execution is the moving call. Its `reference_id` is ours, serves
for look-ups, and is accepted once. The content of an execution, except the code, is remembered before
it is sent, so that a repeat has the same content.

An order has one session at a time. Within it, another reference is used only after the provider refused
the code of the previous one; another session is opened only when the old one is over or was never used.
In addition, the gateway's gate requires that nothing sent before can still pay. Source: card-passcode
protocol notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel

from adapters.card_passcode.answer import Given, read_answer
from adapters.card_passcode.client import Answer, Client
from adapters.card_passcode.session import (
    MOST_ATTEMPTS,
    Session,
    account_of,
    echo_of,
    misfits,
    opened,
    request_of,
    unpayable,
)
from adapters.card_passcode.settings import CardPasscodeSettings, Mode
from adapters.card_passcode.statuses import (
    choose,
    ended_unpaid,
    may_be_the_code,
    read_execution,
    refused_code,
    text_of,
)
from gateway.adapter import (
    Absent,
    Action,
    Adapter,
    CannotLook,
    Capabilities,
    FailureCode,
    KeySemantics,
    NotSent,
    Order,
    OutcomeUnknown,
    PayoutAccountDestination,
    Rate,
    Rejected,
    Report,
    SubStatus,
    Terms,
    Tools,
    TurnedAway,
    Unsupported,
    WrongAnswer,
    read_time,
)

#: Refused before processing, because of our credentials, our rights or our rate.
_AT_THE_DOOR = frozenset({401, 403, 429})
#: The pause after a refused standing passcode, because five wrong ones lock the session.
_REFUSED_AGAIN_S = 300.0
_FORBIDDEN_AGAIN_S = 60.0
#: A confirm younger than this may still be refused for its code, even if PROCESSING was seen.
_YOUNG_S = 10.0


class CardPasscode(Adapter[CardPasscodeSettings]):
    """Pays to payout accounts from the merchant's wallet."""

    name = "card_passcode"
    Settings: ClassVar[type[BaseModel]] = CardPasscodeSettings
    capabilities = Capabilities(
        destination_types=frozenset({"payout_account"}),
        source_types=frozenset({"WALLET"}),
        step_up=True,
        # The same reference with the same content pays only once, for ever; the provider says to repeat
        # it after a 5xx. An instance that asks people for codes cannot repeat by itself, see below.
        keys=KeySemantics(
            life_s=None,
            shared_by_credentials=True,
            look_up=True,
            repeat_is_safe=True,
        ),
        # The usual life of a session plus a margin. Every call reports how long its own session lives.
        call_life_s=960,
        visibility_s=60,
        # Every code has its own reference, and a look asks only by those that were remembered.
        finds_lost_calls=False,
        # The provider publishes no rate; a 429 is one of the documented errors (notes, §7).
        rate=Rate(refusal_proves_unsent=True),
        polling_s=(*(2,) * 5, *(5,) * 12, *(30,) * 20, 300),
    )
    #: The client id names the merchant; its secret and the passcode may be replaced.
    account_settings = ("base_url", "client_id")

    def __init__(self, settings: CardPasscodeSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        can = type(self).capabilities
        if {settings.passcode_mode, *settings.payout_accounts.values()} != {"standing"}:
            # An execution cannot be repeated without the person who gives the code: it is looked up
            # until it is found, or until its session is over and its absence is proven.
            can = replace(can, keys=replace(can.keys, repeat_is_safe=False))
        self.capabilities = can
        self._client = Client(
            settings.base_url,
            settings.client_id.get_secret_value(),
            settings.client_secret.get_secret_value(),
            settings.timeout_s,
            tools,
        )
        self._refused_until = float("-inf")

    async def submit(self, order: Order) -> Report:
        """Open a session and execute it, or ask for a passcode."""
        fault, mode = self.check(order), self._mode(order)
        if fault is not None:
            raise Rejected(FailureCode.SUBMISSION_REJECTED, fault)
        if mode == "standing":
            return await self._pay(order)
        self._let_it_end(order, Session.of(order.notes))
        if mode == "caller":
            # The provider is not called before a person has answered.
            return self._ask(order, "waits for a passcode")
        return await self._challenge(order)

    async def confirm(self, order: Order, answer: Mapping[str, Any]) -> Report:
        """Execute with the passcode that a person gave. The code is used for this call only.

        Raises WrongAnswer, UnreadableAnswer or NotSent; after NotSent the action stays as it was. May
        be called again after any outcome: it first looks up what was sent before.
        """
        fault = self.check(order)
        if fault is not None:
            raise Rejected(FailureCode.SUBMISSION_REJECTED, fault)
        mode = self._mode(order)
        if mode == "standing":
            raise Unsupported("this payout account takes the standing passcode")
        settings = self.settings
        given = read_answer(
            answer, settings.owner, settings.device.model_dump(), both_ids=settings.both_ids
        )
        known = Session.of(order.notes)
        if known is not None and self._sent(order, known):
            seen = await self._look(order, known.reference_id)
            if isinstance(seen, Report):
                return seen
        if mode == "caller":
            session = await self._session(order)
        elif known is not None and known.usable(order):
            session = known
        else:
            raise NotSent("the session of this code is over; a new code is needed")
        if isinstance(session, Report):
            return session
        return await self._execute(order, session, given, confirmed_stamp=order.stamp())

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Look up every reference under which something was sent. Raises NotSent if a look failed."""
        earlier, sent = order.notes.get("earlier_references") or [], order.notes.get("sent")
        references = dict.fromkeys([*([sent] if sent else []), *reversed(earlier)])
        if not references:
            return CannotLook("nothing was sent yet")
        return choose([await self._look(order, each) for each in references])

    def check(self, terms: Terms) -> str | None:
        """Return why the provider could never pay on these terms, or None."""
        return unpayable(terms)

    # --- Sessions and codes: nothing moves --------------------------------------------------------

    async def _pay(self, order: Order) -> Report:
        """Execute with the standing passcode; a repeat has the same content in the same session."""
        left = self._refused_until - self.tools.clock.monotonic()
        if left > 0:
            raise NotSent("the standing passcode was refused a while ago", again_after_s=left)
        session = await self._session(order)
        if isinstance(session, Report):
            return session
        passcode = self.settings.passcode
        assert passcode is not None  # noqa: S101 - the settings were checked
        device = self.settings.device.model_dump()
        return await self._execute(order, session, Given(passcode, self.settings.owner, device))

    async def _challenge(self, order: Order) -> Report:
        """Open a session and let the provider send its code; send another one if the code is too old."""
        known, until_s = Session.of(order.notes), order.notes.get("code_until_s") or 0.0
        if known is not None and known.usable(order) and order.passed_s(known.stamp) < until_s:
            return self._ask(order, "waits for a one-time code")
        session = await self._session(order)
        if isinstance(session, Report):
            return session
        wanted = {"session_id": session.id, "channel": self.settings.channel}
        answer = await self._client.ask("POST", "/passcodes/send", wanted)
        if not answer.ok:
            if answer.refused_fields and known is not None:
                # The session had too many codes, or it is over.
                await self._forget(order)
            raise answer.not_done(f"code: {answer.words}")
        # Both times are by the provider's clock; the result is counted from our stamp.
        ends, begun = read_time(answer.json.get("expires_at")), read_time(session.created_at)
        life_s = session.life_s
        if ends is not None and begun is not None:
            life_s = min(life_s, (ends - begun).total_seconds())
        session_ends = read_time(session.ends_at)
        assert session_ends is not None  # noqa: S101 - written by us
        await order.remember(
            **session.notes(),
            code_until_s=life_s,
            code_expires_at=(session_ends - timedelta(seconds=session.life_s - life_s)).isoformat(),
            masked_target=text_of(answer.json.get("masked_target")),
        )
        return self._ask(order, "waits for a one-time code")

    async def _session(self, order: Order) -> Session | Report:
        """Return the session to execute in, or the report of a session that differs from the order.

        Another session is opened only when nothing can arrive in the old one any more, because nothing
        was sent in it or it is over. Raises Rejected, NotSent.
        """
        known = Session.of(order.notes)
        if known is not None and known.usable(order):
            return known
        self._let_it_end(order, known)
        account, stamp, asked_at = account_of(order), order.stamp(), self.tools.clock.now()
        answer = await self._client.ask("POST", "/sessions/payout", request_of(order, account))
        if not answer.ok:
            if answer.refused_fields:
                code = refused_code(answer.refused_fields)
                raise Rejected(code, answer.words, custodian_code="422")
            raise answer.not_done(f"session: {answer.words}")
        echo = echo_of(order, account, answer.json)
        unfit = misfits(order, answer.json, echo)
        if unfit or echo.differences():
            return Report(
                SubStatus.AWAITING_APPROVAL,
                text_of(answer.json.get("status")),
                echo=echo,
                unknown_words=unfit,
                detail="the provider opened another session than was ordered; not executed",
            )
        number = int(order.notes.get("references", 0)) + 1
        session = opened(answer.json, order, stamp, asked_at, number)
        if session is None:
            raise NotSent("session: an answer without an id or an end")
        return session

    @staticmethod
    def _let_it_end(order: Order, session: Session | None) -> None:
        """Raise NotSent while something that was sent in a session may still arrive."""
        if session is not None and CardPasscode._sent(order, session):
            left_s = session.left_s(order)
            if left_s > 0:
                raise NotSent("waits for the end of its session", again_after_s=left_s)

    @staticmethod
    def _sent(order: Order, session: Session) -> bool:
        """Whether a call under the session's reference may have arrived."""
        return order.moved and order.notes.get("sent") == session.reference_id

    @staticmethod
    async def _forget(order: Order) -> None:
        """Stop using the session; the next one gets another reference."""
        await order.remember(session_id=None, code_until_s=None)

    # --- Execute: the moving call -----------------------------------------------------------------

    async def _execute(self, order: Order, session: Session, given: Given, **notes: Any) -> Report:
        """Execute with the remembered content; only the code is new."""
        reference_id, first = session.reference_id, not self._sent(order, session)
        before = {name: order.notes.get(name) for name in ("sent", "earlier_references")}
        if first:
            await order.remember(
                **session.notes(),
                owner=dict(given.owner),
                device=dict(given.device),
                sent=reference_id,
                earlier_references=_earlier(order, reference_id),
                **notes,
            )
        code = given.code.get_secret_value()
        body = {
            "session_id": session.id,
            "payout_account_id": account_of(order),
            "reference_id": reference_id,
            "passcode": {
                "token": {**order.notes["owner"], "code": code},
                "device": order.notes["device"],
            },
        }
        prepared = await self._client.prepare("POST", "/executions/payout", body)
        young = self._young(order, reference_id)
        # The request is valid as long as its session, whatever token it carries.
        try:
            await order.moving(reference=reference_id, call_life_s=session.left_s(order))
        except NotSent:
            if first:
                # Nothing was sent under this reference, so the next call under it is again the first
                # one.
                await order.remember(**before)
            raise
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"execution: no connection ({type(error).__name__})") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"execution: no answer ({type(error).__name__})") from None
        if answer.ok:
            return await self._accepted(order, reference_id, answer, young=young)
        # Their text must not contain the passcode, in case they repeat it.
        words = "(it repeats the passcode)" if code in answer.words else answer.words
        if answer.status in _AT_THE_DOOR and answer.documented:
            raise self._turned_away(order, answer, f"execution: {words}")
        fields = answer.refused_fields
        if not first or not fields or "reference_id" in fields:
            # The reference is used up or already there, so the first call may have arrived.
            raise OutcomeUnknown(f"execution: {words}")
        raise await self._refused(order, session, fields, words)

    def _turned_away(self, order: Order, answer: Answer, words: str) -> NotSent:
        """Return the error for an execution that was refused before processing."""
        if answer.status != 403:  # noqa: PLR2004
            return answer.not_done(words)
        # The reason is a wrong passcode or missing rights; the response does not distinguish them.
        if self._mode(order) == "standing":
            self._pause(_FORBIDDEN_AGAIN_S)
        return TurnedAway(words, again_after_s=answer.retry_after_s)

    async def _accepted(
        self, order: Order, reference_id: str, answer: Answer, *, young: bool
    ) -> Report:
        if text_of(answer.json.get("reference_id")).lower() != reference_id:
            raise OutcomeUnknown("execution: it answered for another reference")
        report = await self._read(order, reference_id, answer.json, young=young)
        if report.sub_status is None:
            # The execution was accepted, whatever its status says; an operator sees an unknown one.
            return replace(report, sub_status=SubStatus.SUBMITTED)
        return report

    async def _refused(
        self, order: Order, session: Session, fields: frozenset[str], words: str
    ) -> Exception:
        """Return the outcome of a clear refusal of the first call under a reference: nothing moved."""
        if "passcode" in fields:
            if self._mode(order) == "standing":
                await self._forget(order)
                self._pause(_REFUSED_AGAIN_S)
                return NotSent(f"execution: {words}", again_after_s=_REFUSED_AGAIN_S)
            return await self._wrong_code(order, session)
        if "session_id" in fields:
            await self._forget(order)
            return NotSent(f"execution: {words}")
        return Rejected(refused_code(fields), words, custodian_code="422")

    async def _wrong_code(self, order: Order, session: Session) -> WrongAnswer:
        """Count a wrong code; the session accepts further ones, each under its own reference."""
        left, number = session.attempts_left - 1, session.number + 1
        if left > 0:
            reference_id = order.key(f"execution-{number}")
            fresh = replace(session, number=number, reference_id=reference_id, attempts_left=left)
            await order.remember(**fresh.notes())
        else:
            await self._forget(order)
        return WrongAnswer("the provider refused the passcode", left)

    # --- Looks ------------------------------------------------------------------------------------

    async def _look(self, order: Order, reference_id: str) -> Report | Absent:
        # Take the time before the look, because a finding is dated by the start of the look.
        young = self._young(order, reference_id)
        answer = await self._client.ask("GET", f"/status/payout/{quote(reference_id, safe='')}")
        if answer.not_found:
            return Absent("404")
        if not answer.ok:
            raise answer.not_done(f"status: {answer.words}")
        return await self._read(order, reference_id, answer.json, young=young)

    async def _read(
        self, order: Order, reference_id: str, told: Mapping[str, Any], *, young: bool
    ) -> Report:
        """Read an execution. One that was refused late for its code may be tried again.

        A code may be refused by a FAILED after it was accepted. This is remembered with its reference,
        so that a later look reports the same.
        """
        # Calls that were made before references were passed to the gateway have none.
        named = "session_stamp" in order.notes
        now = self.tools.clock.now()
        report = read_execution(order, reference_id, told, now, young=young, named=named)
        if not ended_unpaid(report):
            return report
        known = [order.notes.get("refused_late"), *(order.notes.get("refused_references") or [])]
        if reference_id not in known:
            if not young or not may_be_the_code(report):
                return report
            await order.remember(refused_late=reference_id)
        return replace(report, reopens=True)

    def _young(self, order: Order, reference_id: str) -> bool:
        """Whether the passcode of this execution is so recent that it may still be refused."""
        stamp = order.notes.get("confirmed_stamp")
        if stamp is None or order.notes.get("sent") != reference_id:
            return False
        return order.passed_s(stamp) < _YOUNG_S

    # --- Asking -----------------------------------------------------------------------------------

    def _ask(self, order: Order, word: str) -> Report:
        return Report(SubStatus.REQUIRES_ACTION, word, action=self._action(order))

    def _action(self, order: Order) -> Action:
        """Return the action that a person is asked for now, from the remembered notes."""
        notes, session = order.notes, Session.of(order.notes)
        live = session if session is not None and session.usable(order) else None
        if self._mode(order) == "one_time_code":
            return Action(
                channel=self.settings.channel,
                masked_target=notes.get("masked_target") or None,
                attempts_left=session.attempts_left if session else MOST_ATTEMPTS,
                expires_at=read_time(notes.get("code_expires_at")),
            )
        return Action(
            attempts_left=live.attempts_left if live else MOST_ATTEMPTS,
            expires_at=read_time(live.ends_at) if live else None,
        )

    def _mode(self, order: Order) -> Mode:
        destination = order.destination
        if not isinstance(destination, PayoutAccountDestination):
            return "standing"  # the payout was refused before anything was sent
        return self.settings.mode_of(destination.payout_account_id)

    def _pause(self, seconds: float) -> None:
        self._refused_until = self.tools.clock.monotonic() + seconds


def _earlier(order: Order, reference_id: str) -> list[str]:
    """Return the earlier references that are still looked up when another one is used.

    These are of calls that may have arrived. The gateway allows another call only when their absence is
    proven, but a provider that breaks its promise must still be noticed.
    """
    earlier = list(order.notes.get("earlier_references") or [])
    sent = order.notes.get("sent")
    if not order.moved or sent in {None, reference_id, *earlier}:
        return earlier
    return [*earlier, sent]
