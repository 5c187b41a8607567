"""`pause` and `resume`: stop and resume what moves money. They also work while no gateway runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    known_custodian,
    operator_name,
    print_json,
    print_table,
    reading_store,
    say,
    settings_of,
    told_time,
    with_store,
)

if TYPE_CHECKING:
    from gateway.pause import Pause
    from gateway.pausing import Waiting, Wanted
    from gateway.store.database import Database, Tx

pause_app = typer.Typer(
    help="Stop payouts: no call that may move money is begun until they are resumed. What is on its way "
    "is followed as before.",
    no_args_is_help=True,
)
resume_app = typer.Typer(help="Let paused payouts go on.", no_args_is_help=True)

ReasonOption = Annotated[str, typer.Option(help="Reason; kept in the audit log.")]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep-accepting",
        help="Still give new quotes; their payouts wait. Otherwise new quotes are refused.",
    ),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the custodian instance.")]
TypeArgument = Annotated[str, typer.Argument(help="The custodian's type of the account.")]
IdArgument = Annotated[str, typer.Argument(help="The custodian's id of the account.")]
AssetArgument = Annotated[str, typer.Argument(help="Asset code.")]
OrgArgument = Annotated[str, typer.Argument(help="Name of the org.")]


@pause_app.command(name="all")
def pause_all(
    *,
    reason: ReasonOption,
    keep_accepting: KeepOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Emergency stop: every payout of every org waits, at every custodian."""
    _pause(config, _wanted("all"), reason, keep_accepting=keep_accepting, as_json=as_json)


@pause_app.command(name="custodian")
def pause_custodian(
    name: NameArgument,
    *,
    reason: ReasonOption,
    keep_accepting: KeepOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Every payout through one custodian instance waits."""
    known_custodian(settings_of(config), name)
    wanted = _wanted("custodian", name)
    _pause(config, wanted, reason, keep_accepting=keep_accepting, as_json=as_json)


@pause_app.command(name="account")
def pause_account(  # noqa: PLR0913 - one argument per option
    name: NameArgument,
    account_type: TypeArgument,
    account_id: IdArgument,
    *,
    reason: ReasonOption,
    keep_accepting: KeepOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Every payout from one source account waits."""
    _known_account(config, name, account_type, account_id)
    wanted = _wanted("account", _account(name, account_type, account_id))
    _pause(config, wanted, reason, keep_accepting=keep_accepting, as_json=as_json)


@pause_app.command(name="asset")
def pause_asset(
    code: AssetArgument,
    *,
    reason: ReasonOption,
    keep_accepting: KeepOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Every payout in one asset waits."""
    from gateway.assets import Asset, AssetRegistry
    from gateway.errors import Refused

    settings = settings_of(config)
    known = AssetRegistry(Asset.model_validate(each.model_dump()) for each in settings.assets)
    try:
        wanted = _wanted("asset", known.find(code).code)
    except Refused:
        fail(f"there is no asset {code}; assets: {', '.join(known.codes())}", 2)
    _pause(config, wanted, reason, keep_accepting=keep_accepting, as_json=as_json)


@pause_app.command(name="org")
def pause_org(
    name: OrgArgument,
    *,
    reason: ReasonOption,
    keep_accepting: KeepOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Every payout of one org waits."""
    from gateway.keys import list_keys

    async def orgs(db: Database) -> set[str | None]:
        return {each.org for each in await db.read(list_keys)}

    if name not in with_store(config, orgs):
        fail(f"no API key was ever minted for an org {name}; see payout-gateway keys list", 2)
    wanted = _wanted("org", name)
    _pause(config, wanted, reason, keep_accepting=keep_accepting, as_json=as_json)


@pause_app.command(name="list")
def list_(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """List the pauses, and how many payouts wait for each."""
    from gateway.pausing import waiting
    from gateway.runtime import real_runtime
    from gateway.store.pauses import active_pauses

    settings, runtime = settings_of(config), real_runtime()
    within = round(settings.engine.submit_within_s * 1_000_000)

    async def work(db: Database) -> list[dict[str, Any]]:
        now = runtime.clock.moment()
        return [
            _told(each, await db.scan(waiting, each, now, within))
            for each in await db.read(active_pauses)
        ]

    rows = reading_store(config, work, runtime)
    if as_json:
        print_json({"data": rows})
        return
    columns = [
        "paused",
        "by",
        "mode",
        "keep_accepting",
        "waiting",
        "first_expiry",
        "since",
        "reason",
    ]
    print_table("Pauses", columns, [[row[name] for name in columns] for row in rows])


@resume_app.command(name="all")
def resume_all(
    *,
    reason: ReasonOption,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """End the pause of everything. Narrower pauses stay; they are printed."""
    _resume(config, _wanted("all"), reason, as_json=as_json)


@resume_app.command(name="account")
def resume_account(  # noqa: PLR0913 - one argument per option
    name: NameArgument,
    account_type: TypeArgument,
    account_id: IdArgument,
    *,
    reason: ReasonOption,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """End the pause of one source account."""
    wanted = _wanted("account", _account(name, account_type, account_id))
    _resume(config, wanted, reason, as_json=as_json)


def _add_resume(scope: str, argument: Any, text: str) -> None:
    """Add `resume SCOPE NAME` for a scope that one name identifies."""

    def command(
        name: str,
        *,
        reason: ReasonOption,
        config: ConfigOption = Path(DEFAULT_CONFIG),
        as_json: JsonOption = False,
    ) -> None:
        _resume(config, _wanted(scope, name), reason, as_json=as_json)

    command.__annotations__["name"] = argument
    resume_app.command(name=scope, help=text)(command)


_add_resume("custodian", NameArgument, "End the pause of one custodian instance.")
_add_resume("asset", AssetArgument, "End the pause of one asset.")
_add_resume(
    "org",
    OrgArgument,
    "End the operator's pause of one org. What an org has paused itself, it resumes itself.",
)


def _wanted(scope: str, target: str = "") -> Wanted:
    from gateway.pause import PauseScope
    from gateway.pausing import Wanted

    # Asset codes are in capitals, but may be typed in any case.
    return Wanted(PauseScope(scope), target.upper() if scope == "asset" else target)


def _account(name: str, account_type: str, account_id: str) -> str:
    from gateway.model import Account
    from gateway.pause import account_target

    return account_target(name, Account(id=account_id, type=account_type))


def _known_account(config: Path, name: str, account_type: str, account_id: str) -> None:
    from gateway.credentials import accounts_of

    settings = settings_of(config)
    known_custodian(settings, name)
    accounts = accounts_of(settings, name)
    if not any((each.type, each.id) == (account_type, account_id) for each in accounts):
        known = ", ".join(dict.fromkeys(f"{each.type} {each.id}" for each in accounts)) or "none"
        fail(f"{name} has no account {account_type} {account_id}; accounts: {known}", 2)


def _reason(reason: str) -> str:
    if not reason.strip():
        fail("--reason must say why", 2)
    return reason.strip()


def _pause(
    config: Path, wanted: Wanted, reason: str, *, keep_accepting: bool, as_json: bool
) -> None:
    from gateway.pausing import pause, standing, waiting
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act

    reason, settings, runtime = _reason(reason), settings_of(config), real_runtime()
    within = round(settings.engine.submit_within_s * 1_000_000)

    async def change(tx: Tx) -> tuple[Pause | None, Pause]:
        before = await standing(tx, wanted)
        act = Act(operator_name())
        return before, await pause(tx, runtime, wanted, reason, act, keep_accepting=keep_accepting)

    async def work(db: Database) -> tuple[Pause | None, dict[str, Any]]:
        before, made = await db.run(change)
        return before, _told(made, await db.scan(waiting, made, runtime.clock.moment(), within))

    before, told = with_store(config, work, runtime)
    if as_json:
        print_json({**told, "already": before is not None})
        return
    quotes = "given, and wait" if keep_accepting else "refused"
    if before is None:
        say(f"paused: {told['paused']}; new quotes are {quotes}")
    else:
        say(
            f"already paused since {told['since']}: {told['paused']} ({before.reason}); the reason is the "
            f"new one now, and new quotes are {quotes}"
            + ("" if before.keep_accepting == keep_accepting else ", as they were not before")
        )
    if not told["waiting"]:
        say("no payout waits now")
        return
    say(
        f"{_many(told['waiting'])} now; unless resumed before, the first fails as not_sent_in_time at "
        f"{told['first_expiry']}, and the last at {told['last_expiry']}"
    )


def _many(count: int) -> str:
    return "1 payout waits" if count == 1 else f"{count} payouts wait"


def _resume(config: Path, wanted: Wanted, reason: str, *, as_json: bool) -> None:
    from gateway.pausing import Waiting, resume
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act

    reason, runtime = _reason(reason), real_runtime()

    async def work(db: Database) -> list[Pause] | None:
        return await db.run(resume, runtime, wanted, reason, Act(operator_name()))

    left = with_store(config, work, runtime)
    if left is None:
        fail("that is not paused by the operator; see payout-gateway pause list")
    if as_json:
        print_json({"still_paused": [_told(each, Waiting()) for each in left]})
        return
    say("resumed")
    for each in left:
        say(f"still paused: {each.name} (by {each.owner or 'the operator'}): {each.reason}")


def _told(each: Pause, held: Waiting) -> dict[str, Any]:
    from gateway.store.rows import from_us, maybe_from_us

    return {
        "id": each.id,
        "paused": each.name,
        "scope": each.scope.value,
        "target": each.target or None,
        "by": each.owner or "operator",
        "mode": each.mode or "both",
        "reason": each.reason,
        "keep_accepting": each.keep_accepting,
        "since": told_time(from_us(each.since)),
        "waiting": held.payouts,
        "first_expiry": told_time(maybe_from_us(held.first_expiry)),
        "last_expiry": told_time(maybe_from_us(held.last_expiry)),
    }
