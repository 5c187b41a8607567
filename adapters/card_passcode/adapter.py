"""Payouts by session, passcode and execution.

A session opens nothing that moves; the execution is the moving call. Its `reference_id` is ours, is
looked up by, and is accepted once. The content of an execution, but for the code, is remembered
before it is sent, so that a repeat is the same content. Source: card-passcode protocol notes.
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
    read_time,
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
    Rejected,
    Report,
    SubStatus,
    Terms,
    Tools,
    Unsupported,
    WrongAnswer,
)

#: Stopped at the door: for our credentials or rights, or for our rate.
_AT_THE_DOOR = frozenset({401, 403, 429})
#: After a refused standing passcode nothing is executed for so long: five wrong ones lock.
_REFUSED_AGAIN_S = 300.0
_FORBIDDEN_AGAIN_S = 60.0
#: A confirm younger than this may still be refused for its code, although PROCESSING was seen.
_YOUNG = timedelta(seconds=10)


class CardPasscode(Adapter[CardPasscodeSettings]):
    """Pays payout accounts out of the merchant's wallet."""

    name = "card_passcode"
    Settings: ClassVar[type[BaseModel]] = CardPasscodeSettings
    capabilities = Capabilities(
        destination_types=frozenset({"payout_account"}),
        source_types=frozenset({"WALLET"}),
        step_up=True,
        # The same reference with the same content pays once; that a repeat is safe is not declared,
        # because there is always a reference to look by, and a look is safer than a repeat.
        keys=KeySemantics(scope="merchant and operation", body_bound=True, look_up=True),
        call_life_s=120,
        visibility_s=60,
        polling_s=(*(2,) * 5, *(5,) * 12, *(30,) * 20, 300),
    )

    def __init__(self, settings: CardPasscodeSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
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
        if mode == "caller":
            # Nothing is asked of the provider before a person has answered.
            return self._ask(order, "waits for a passcode")
        if mode == "one_time_code":
            return await self._challenge(order)
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

    async def confirm(self, order: Order, answer: Mapping[str, Any]) -> Report:
        """Execute with the passcode that a person gave. The code is used for this call only.

        Raises WrongAnswer, UnreadableAnswer; NotSent: the action stays as it was. May be called
        again after anything: what was sent before is looked for first.
        """
        fault = self.check(order)
        if fault is not None:
            raise Rejected(FailureCode.SUBMISSION_REJECTED, fault)
        mode = self._mode(order)
        if mode == "standing":
            raise Unsupported("this payout account takes the standing passcode")
        given = read_answer(answer, self.settings.owner, self.settings.device.model_dump())
        known = Session.of(order.notes)
        if known is not None and self._sent(order, known):
            seen = await self._look(order, known.reference_id)
            if isinstance(seen, Report) and not ended_unpaid(seen):
                return seen
            now = self.tools.clock.now()
            if isinstance(seen, Report) or known.over(now, self.capabilities.call_life_s):
                # Nothing moved under this reference, and nothing can any more.
                await self._retire(order)
                known = None
            elif not known.usable(now):
                raise NotSent("an earlier confirm may still arrive; its session is ending")
        if mode == "caller":
            session = await self._session(order)
        elif known is not None and known.usable(self.tools.clock.now()):
            session = known
        else:
            raise NotSent("the session of this code is over; a new code is needed")
        if isinstance(session, Report):
            return session
        confirmed_at = self.tools.clock.now().isoformat()
        return await self._execute(order, session, given, confirmed_at=confirmed_at)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Ask by the remembered references, the latest first. Raises NotSent where a look failed."""
        current = order.notes.get("reference_id")
        references = [*order.notes.get("earlier_references", []), *([current] if current else [])]
        if not references:
            return CannotLook("no reference is remembered")
        chosen = choose([await self._look(order, each) for each in reversed(references)])
        return chosen if isinstance(chosen, Absent) else await self._unless_late(order, chosen)

    def check(self, terms: Terms) -> str | None:
        """Return why the provider could never pay on these terms, or None."""
        return unpayable(terms)

    async def _challenge(self, order: Order) -> Report:
        """Open a session and let the provider send its code; again where the code is too old."""
        expires_at = read_time(order.notes.get("code_expires_at"))
        known = Session.of(order.notes)
        if known is not None and expires_at is not None and self.tools.clock.now() < expires_at:
            return self._ask(order, "waits for a one-time code")
        session = await self._session(order)
        if isinstance(session, Report):
            return session
        wanted = {"session_id": session.id, "channel": self.settings.channel}
        answer = await self._client.ask("POST", "/passcodes/send", wanted)
        if not answer.ok:
            if answer.refused_fields and known is not None and not self._sent(order, known):
                # Too many codes for this session, or it is over.
                await self._retire(order)
            raise NotSent(f"code: {answer.words}", again_after_s=answer.retry_after_s)
        ends_at = read_time(answer.json.get("expires_at")) or session.ends_at
        await order.remember(
            **session.notes(),
            code_expires_at=ends_at.isoformat(),
            masked_target=text_of(answer.json.get("masked_target")),
        )
        return self._ask(order, "waits for a one-time code")

    async def _session(self, order: Order) -> Session | Report:
        """Return the session to execute in, or the report of one that was not as ordered.

        Another one, with another reference, is opened only where nothing can arrive in the old one
        any more: nothing was sent in it, or it is over. Raises Rejected, NotSent.
        """
        known, now = Session.of(order.notes), self.tools.clock.now()
        if known is not None:
            if known.usable(now):
                return known
            if self._sent(order, known) and not known.over(now, self.capabilities.call_life_s):
                raise NotSent("waits for the end of a session that something was sent in")
            await self._retire(order)
        account = account_of(order)
        answer = await self._client.ask("POST", "/sessions/payout", request_of(order, account))
        if not answer.ok:
            if answer.refused_fields:
                code = refused_code(answer.refused_fields)
                raise Rejected(code, answer.words, custodian_code="422")
            raise NotSent(f"session: {answer.words}", again_after_s=answer.retry_after_s)
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
        session = opened(answer.json, number, order.key(f"execution-{number}"), now)
        if session is None:
            raise NotSent("session: an answer without an id or an end")
        return session

    @staticmethod
    def _sent(order: Order, session: Session) -> bool:
        """Whether something was sent under the session's reference, and not clearly refused."""
        return bool(order.notes.get("sent") == session.reference_id)

    async def _retire(self, order: Order) -> None:
        """Use the session and its reference no more; go on looking by the reference."""
        earlier = [*order.notes.get("earlier_references", []), order.notes["reference_id"]]
        forgotten = dict.fromkeys(
            ("session_id", "reference_id", "code_expires_at", "attempts_left")
        )
        await order.remember(**forgotten, earlier_references=earlier)

    async def _execute(self, order: Order, session: Session, given: Given, **notes: Any) -> Report:
        """Execute, with everything but the code fixed by what is remembered."""
        first = not self._sent(order, session)
        if first:
            await order.remember(
                **session.notes(),
                owner=dict(given.owner),
                device=dict(given.device),
                sent=session.reference_id,
                **notes,
            )
        code = given.code.get_secret_value()
        body = {
            "session_id": session.id,
            "payout_account_id": account_of(order),
            "reference_id": session.reference_id,
            "passcode": {
                "token": {**order.notes["owner"], "code": code},
                "device": order.notes["device"],
            },
        }
        prepared = await self._client.prepare("POST", "/executions/payout", body)
        await order.moving()
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            words = f"no connection ({type(error).__name__})"
            raise await self._not_accepted(order, words, first=first) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"execution: no answer ({type(error).__name__})") from None
        if answer.ok:
            return await self._accepted(order, session, answer)
        # Never the passcode, should they repeat it.
        words = "(it repeats the passcode)" if code in answer.words else answer.words
        if answer.status in _AT_THE_DOOR:
            if answer.status == 403 and self._mode(order) == "standing":  # noqa: PLR2004
                # For a wrong passcode or for a lack of rights: nobody can tell.
                self._pause(_FORBIDDEN_AGAIN_S)
            again = answer.retry_after_s
            raise await self._not_accepted(order, words, first=first, again_after_s=again)
        fields = answer.refused_fields
        if not first or not fields or "reference_id" in fields:
            # Used up, already there: the first call may have arrived.
            raise OutcomeUnknown(f"execution: {words}")
        return await self._refused(order, session, fields, words)

    async def _accepted(self, order: Order, session: Session, answer: Answer) -> Report:
        report = self._read(order, session.reference_id, answer.json)
        if text_of(answer.json.get("reference_id")).lower() != session.reference_id:
            raise OutcomeUnknown("execution: it answered for another reference")
        if report.sub_status is None:
            # Taken, whatever its words are; what they mean an operator will see.
            return replace(report, sub_status=SubStatus.SUBMITTED)
        return await self._unless_late(order, report)

    async def _unless_late(self, order: Order, report: Report) -> Report:
        """Return a report, or the question anew where it tells of a passcode that was refused late.

        A code may be refused by a FAILED after it was taken. That is remembered of its reference,
        and of no other one: what is sent later is judged by its own execution.
        """
        reference_id = report.custodian_reference
        refused = order.notes.get("refused_references", [])
        if reference_id not in refused:
            if not (
                self._young(order, reference_id)
                and ended_unpaid(report)
                and may_be_the_code(report)
            ):
                return report
            await self._retire(order)
            await order.remember(refused_references=[*refused, reference_id])
        return replace(
            self._ask(order, report.custodian_word),
            detail=report.detail,
            custodian_reference=reference_id,
        )

    async def _not_accepted(
        self, order: Order, words: str, *, first: bool, again_after_s: float | None = None
    ) -> NotSent:
        """Return the error of a call that was stopped before anybody looked at its content."""
        if first:
            # The next call under this reference is a first one again.
            await order.remember(sent=None)
        return NotSent(f"execution: {words}", again_after_s=again_after_s)

    async def _refused(
        self, order: Order, session: Session, fields: frozenset[str], words: str
    ) -> Report:
        """Judge a clear no to the first call under a reference: nothing moved."""
        if "passcode" in fields:
            if self._mode(order) == "standing":
                await self._retire(order)
                self._pause(_REFUSED_AGAIN_S)
                raise NotSent(f"execution: {words}", again_after_s=_REFUSED_AGAIN_S)
            raise await self._wrong_code(order, session)
        if "session_id" in fields:
            await self._retire(order)
            raise NotSent(f"execution: {words}")
        raise Rejected(refused_code(fields), words, custodian_code="422")

    async def _wrong_code(self, order: Order, session: Session) -> WrongAnswer:
        """Count a wrong code; the session takes more of them until it is locked."""
        left = int(order.notes.get("attempts_left") or MOST_ATTEMPTS) - 1
        if left > 0:
            again = replace(session, number=session.number + 1)
            fresh = replace(again, reference_id=order.key(f"execution-{again.number}"))
            await order.remember(**fresh.notes(), attempts_left=left)
        else:
            await self._retire(order)
        return WrongAnswer("the provider refused the passcode", left)

    async def _look(self, order: Order, reference_id: str) -> Report | Absent:
        answer = await self._client.ask("GET", f"/status/payout/{quote(reference_id, safe='')}")
        if answer.not_found:
            return Absent("404")
        if not answer.ok:
            raise NotSent(f"status: {answer.words}", again_after_s=answer.retry_after_s)
        return self._read(order, reference_id, answer.json)

    def _read(self, order: Order, reference_id: str, told: Mapping[str, Any]) -> Report:
        young = self._young(order, reference_id)
        return read_execution(order, reference_id, told, self.tools.clock.now(), young=young)

    def _young(self, order: Order, reference_id: str | None) -> bool:
        """Whether the passcode of this execution came so lately that it may still be refused."""
        confirmed_at = read_time(order.notes.get("confirmed_at"))
        if confirmed_at is None or order.notes.get("sent") != reference_id:
            return False
        return self.tools.clock.now() < confirmed_at + _YOUNG

    def _ask(self, order: Order, word: str) -> Report:
        return Report(SubStatus.REQUIRES_ACTION, word, action=self._action(order))

    def _action(self, order: Order) -> Action:
        """Return what a person is asked for now, from what is remembered."""
        notes = order.notes
        sent = self._mode(order) == "one_time_code"
        session = Session.of(notes)
        ends_at = session.ends_at if session else None
        return Action(
            channel=self.settings.channel if sent else None,
            masked_target=notes.get("masked_target") or None if sent else None,
            attempts_left=int(notes.get("attempts_left") or MOST_ATTEMPTS),
            expires_at=read_time(notes.get("code_expires_at")) or ends_at if sent else ends_at,
        )

    def _mode(self, order: Order) -> Mode:
        destination = order.destination
        if not isinstance(destination, PayoutAccountDestination):
            return "standing"  # refused before anything is sent
        return self.settings.mode_of(destination.payout_account_id)

    def _pause(self, seconds: float) -> None:
        self._refused_until = self.tools.clock.monotonic() + seconds
