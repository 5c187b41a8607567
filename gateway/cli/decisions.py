"""`payouts resolve` and `payouts retry`: an operator's decisions about one payout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    OperatorOption,
    YesOption,
    confirmed,
    fail,
    frozen_reason,
    operator_name,
    print_json,
    print_result,
    reading_store,
    say,
    settings_of,
    told_time,
    with_store,
)
from gateway.cli.words import FundsMovedWord

if TYPE_CHECKING:
    from gateway.capabilities import Capabilities
    from gateway.config.settings import Settings
    from gateway.execution.operator import LookAsked, Resolution
    from gateway.model import Payout
    from gateway.runtime import Runtime
    from gateway.store.database import Database, Tx

PayoutArgument = Annotated[str, typer.Argument(help="Payout id.")]


class Ending(StrEnum):
    """The end of a payout, as an operator has found it."""

    DELIVERED = "delivered"
    FAILED = "failed"


def resolve(  # noqa: PLR0913 - one argument per option
    payout_id: PayoutArgument,
    *,
    ending: Annotated[Ending, typer.Option("--as", help="What the custodian's own records say.")],
    evidence: Annotated[
        str,
        typer.Option(
            help="What you saw, where and when; kept in the audit log, not shown to the partner."
        ),
    ],
    funds_moved: Annotated[
        FundsMovedWord,
        typer.Option(help="With --as failed: whether money left the source account."),
    ] = FundsMovedWord.UNKNOWN,
    transfer: Annotated[
        str | None,
        typer.Option(
            help="With --as delivered: id or hash of the transfer that delivered it. The partner sees it."
        ),
    ] = None,
    looked: Annotated[
        int | None,
        typer.Option(help="With --funds-moved no: the number of the look that you were asked for."),
    ] = None,
    operator: OperatorOption = None,
    yes: YesOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """End a payout by hand, with evidence. Subscribers are notified as for any other end.

    Asks for confirmation, because an end is final. `--as failed --funds-moved no` needs proof that nothing
    was paid: that nothing was sent, the gateway's own looks, or yours after no call could arrive any more.
    You are asked to look when that time has come.
    """
    from gateway.execution.operator import NotAllowedError, Resolution
    from gateway.model import FundsMoved
    from gateway.runtime import real_runtime

    if not evidence.strip():
        fail("--evidence must say what you saw", 2)
    by = operator_name(operator)
    found = Resolution(
        delivered=ending is Ending.DELIVERED,
        evidence=evidence.strip(),
        funds_moved=FundsMoved(funds_moved.value),
        transfer=transfer,
        looked=looked,
    )
    if not yes:
        say(*_question(_shown(config, payout_id), found, by), err=True)
    confirmed("End this payout? It cannot be undone.", yes=yes)
    try:
        asked = _resolved(config, real_runtime(), payout_id, found, by)
    except NotAllowedError as error:
        fail(f"not resolved: {error}")
    if as_json:
        moved = None if found.delivered else funds_moved.value
        told: dict[str, Any] = {
            "payout_id": payout_id,
            "status": ending.value,
            "funds_moved": moved,
            "operator": by,
        }
        if asked is not None:
            told |= {"status": None, "look_asked": asked.number}
        print_json(told)
    if asked is not None:
        fail(
            "not resolved yet: no call can arrive any more. Look at the custodian's own records now; if "
            f"they show no payment, run the command again with --looked {asked.number}"
        )
    if not as_json:
        say(f"{payout_id} is {ending}")


def retry(
    payout_id: PayoutArgument,
    *,
    operator: OperatorOption = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Submit a payout again, with the same keys, if it is proven that it did not pay."""
    from gateway.app import custodian_of
    from gateway.errors import ConfigError
    from gateway.execution.operator import NotAllowedError, ProofMissingError
    from gateway.execution.operator import retry as again
    from gateway.runtime import real_runtime
    from gateway.store.payouts import find_payout

    settings, runtime, by = settings_of(config), real_runtime(), operator_name(operator)

    async def work(db: Database) -> None:
        reason = await frozen_reason(db)
        if reason is not None:
            raise NotAllowedError(reason)
        payout = await db.read(find_payout, payout_id)
        if payout is None:
            raise NotAllowedError(f"there is no payout {payout_id}")
        if payout.custodian not in settings.custodians:
            raise NotAllowedError(f"the custodian {payout.custodian} is not configured here")
        # Use the instance and not its class, because its declarations may depend on its settings.
        async with custodian_of(settings, payout.custodian, runtime) as custodian:
            asked = custodian.fingerprint(payout.account, livemode=payout.livemode)
            await db.run(again, runtime, payout_id, custodian.capabilities, asked, by=by)

    try:
        with_store(config, work, runtime)
    except ProofMissingError as error:
        fail(f"not retried; missing: {error}")
    except NotAllowedError as error:
        fail(f"not retried: {error}")
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)
    print_result(
        {"payout_id": payout_id, "retried": True, "operator": by},
        f"{payout_id} will be submitted again at once, if nothing has changed by then",
        as_json=as_json,
    )


def _shown(config: Path, payout_id: str) -> Payout:
    """Return the payout to end; exit with 1 if there is none or it has ended."""
    from gateway.store.payouts import find_payout

    async def work(db: Database) -> Payout | None:
        return await db.scan(find_payout, payout_id)

    payout = reading_store(config, work, warns=False)
    if payout is None:
        fail(f"not resolved: there is no payout {payout_id}")
    if payout.final:
        fail(f"not resolved: {payout_id} is {payout.status}: final statuses never change")
    return payout


def _question(payout: Payout, found: Resolution, by: str) -> list[str]:
    """Return what the operator is about to do, as lines."""
    from gateway.model import FundsMoved, format_amount

    terms = payout.terms
    amount = f"{format_amount(terms.recipient_gets)} {terms.recipient_asset}"
    lines = [
        f"{payout.id}: {amount} of {payout.org}, by {payout.custodian}",
        f"  now: {payout.status} / {payout.sub_status}, since {told_time(payout.updated_at)}",
    ]
    if found.delivered:
        lines.append(
            f"  to be ended as delivered, by the transfer {found.transfer or '(none named)'}"
        )
    elif found.funds_moved is FundsMoved.NO:
        lines.append("  to be ended as failed, no money moved: the partner may pay it again")
    else:
        lines.append(
            f"  to be ended as failed, funds moved: {found.funds_moved}; the partner must not pay it again "
            "before it is clear what happened"
        )
    return [*lines, f"  in the audit log: {by}"]


def _resolved(
    config: Path, runtime: Runtime, payout_id: str, found: Resolution, by: str
) -> LookAsked | None:
    """End a payout. Raises NotAllowedError if that is not possible."""
    from gateway.execution.operator import NotAllowedError
    from gateway.execution.operator import resolve as end
    from gateway.execution.record import Recorder
    from gateway.payouts import Payouts
    from gateway.store.payouts import payout_row
    from gateway.vault import vault_of

    settings = settings_of(config)
    payouts = Payouts(runtime, vault_of(settings, runtime.ids))

    async def custodian(tx: Tx) -> str | None:
        row = await payout_row(tx, payout_id)
        return None if row is None else str(row["custodian"])

    async def work(db: Database) -> LookAsked | None:
        reason = await frozen_reason(db)
        if reason is not None:
            raise NotAllowedError(reason)
        name = await db.read(custodian)
        if name is None:
            raise NotAllowedError(f"there is no payout {payout_id}")
        capabilities = _capabilities_of(settings, name)
        recorder = Recorder(runtime, payouts, name, capabilities)
        lag = capabilities.console_lags
        return await db.run(end, recorder, runtime, payout_id, found, lag=lag, by=by)

    return with_store(config, work, runtime)


def _capabilities_of(settings: Settings, name: str) -> Capabilities:
    """Return the capabilities that a payout's custodian declares.

    If it is no longer configured, or its package is broken, its capabilities are unknown and the
    cautious defaults apply. Each call stores what proves that it cannot arrive any more.
    """
    from gateway.capabilities import Capabilities
    from gateway.custodians.registry import find_adapters

    instance = settings.custodians.get(name)
    adapter = None if instance is None else find_adapters().get(instance.adapter)
    declared = getattr(adapter, "capabilities", None)
    return declared if isinstance(declared, Capabilities) else Capabilities(frozenset())
