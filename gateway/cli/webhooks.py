"""`webhooks`: manages the endpoints of all orgs for operators, and runs a listener for developers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    config_faults_told,
    fail,
    microseconds_of,
    operator_name,
    print_json,
    print_result,
    print_rows,
    print_table,
    reading_store,
    say,
    settings_of,
    told_time,
    with_store,
)

if TYPE_CHECKING:
    from gateway.caller import Caller
    from gateway.store.database import Database, Row, Tx
    from gateway.webhooks.replay import Recovery, Replays

T = TypeVar("T")
app = typer.Typer(help="Webhook endpoints and what they missed.", no_args_is_help=True)
_COLUMNS = [
    "id",
    "org",
    "mode",
    "url",
    "status",
    "disabled_reason",
    "failing_since",
    "waiting",
    "waiting_since",
    "due",
    "oldest_due_at",
    "fault",
]
_TRIES = [
    "started_at",
    "endpoint_id",
    "event_id",
    "event_type",
    "attempt",
    "trigger",
    "outcome",
    "http_status",
    "duration_ms",
    "next_attempt_at",
]

EndpointArgument = Annotated[str, typer.Argument(help="Endpoint id (whe_...).")]


@app.command(name="list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 100,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List the endpoints of all orgs: their state, what waits for them and since when, and what is due."""
    from gateway.resealing import refuse_foreign_key
    from gateway.runtime import real_runtime
    from gateway.store import deliveries, endpoints
    from gateway.store.rows import from_us, maybe_from_us
    from gateway.vault import vault_of
    from gateway.webhooks.endpoints import Endpoints, SetAside

    settings, runtime = settings_of(config), real_runtime()
    vault = vault_of(settings, runtime.ids)

    async def look(tx: Tx) -> list[dict[str, Any]]:
        await refuse_foreign_key(tx, vault)
        now = runtime.timeline.now()
        lags = {row["endpoint_id"]: row for row in await deliveries.lags(tx, now, limit)}
        every = await endpoints.every_endpoint(tx, limit)
        waiting = {
            row["endpoint_id"]: row
            for row in await deliveries.waiting_of(tx, [each["id"] for each in every])
        }
        targets = await Endpoints(runtime, vault, settings).targets(
            tx, [each["id"] for each in every]
        )
        found = []
        for row in every:
            lag = lags.get(row["id"])
            told = {name: row[name] for name in _COLUMNS[:6]}
            waits = waiting.get(row["id"])
            told["failing_since"] = told_time(maybe_from_us(row["failing_since"]))
            told["waiting"] = 0 if waits is None else waits["waiting"]
            told["waiting_since"] = None if waits is None else told_time(from_us(waits["since"]))
            told["due"] = 0 if lag is None else lag["waiting"]
            told["oldest_due_at"] = None if lag is None else told_time(from_us(lag["due"]))
            target = targets.get(row["id"])
            told["fault"] = target.why if isinstance(target, SetAside) else None
            found.append(told)
        return found

    async def work(db: Database) -> list[dict[str, Any]]:
        return await db.scan(look)

    with config_faults_told():
        rows = reading_store(config, work, runtime)
    if as_json:
        print_json({"data": rows})
        return
    # The column is shown only if it is needed, because it is rarely used and the table is wide.
    columns = _COLUMNS if any(row["fault"] for row in rows) else _COLUMNS[:-1]
    print_table("Webhook endpoints", columns, [[row[name] for name in columns] for row in rows])


@app.command()
def tries(
    of: Annotated[str, typer.Argument(help="Endpoint id (whe_...) or event id (evt_...).")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show the delivery attempts at an endpoint or of an event, newest first."""
    from gateway.webhooks.replay import NEWEST

    member = "event_id" if of.startswith("evt_") else "endpoint_id"

    async def act(tx: Tx, replays: Replays, caller: Caller) -> list[dict[str, Any]]:
        found = await replays.attempts(tx, caller, before=NEWEST, limit=limit, **{member: of})
        return [view.model_dump(mode="json") for view, _ in found]

    rows = _heal(config, of, act)
    print_rows("Tries", _TRIES, rows, as_json=as_json)


@app.command()
def resend(
    event_id: Annotated[str, typer.Argument(help="Event id (evt_...).")],
    *,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Only this endpoint. Not given: every enabled one that subscribes."),
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Send an event again, with the same id; its retry plan starts again."""

    async def act(tx: Tx, replays: Replays, caller: Caller) -> list[str]:
        return (await replays.resend(tx, caller, event_id, endpoint)).endpoint_ids

    sent_to = _heal(config, event_id, act, writes=True)
    if not sent_to:
        fail("no enabled endpoint subscribes to this event; nothing is sent")
    print_result(
        {"event_id": event_id, "endpoint_ids": sent_to},
        f"{event_id} is due again at {', '.join(sent_to)}",
        as_json=as_json,
    )


@app.command()
def recover(
    endpoint_id: EndpointArgument,
    *,
    since: Annotated[
        str,
        typer.Option(
            help="Events of this time and later, such as 2026-03-02T10:00:00Z; a date is its midnight in UTC."
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(help="Events before this time. Not given: now."),
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Send missed events to an endpoint again. The running gateway does it, even across restarts."""
    from gateway.store.rows import from_us

    begin = from_us(microseconds_of("--since", since, dates=True))
    end = None if until is None else from_us(microseconds_of("--until", until, dates=True))

    async def act(tx: Tx, replays: Replays, caller: Caller) -> Recovery:
        return await replays.recover(tx, caller, endpoint_id, begin, end)

    job = _heal(config, endpoint_id, act, writes=True)
    print_result(
        job.model_dump(mode="json"),
        f"{job.id}: `payout-gateway webhooks recoveries {endpoint_id}` shows how far it is",
        as_json=as_json,
    )


@app.command()
def recoveries(
    endpoint_id: EndpointArgument,
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show the recoveries of an endpoint, newest first."""
    columns = ["id", "state", "since", "until", "events_looked_at", "events_recovered"]

    async def act(tx: Tx, replays: Replays, caller: Caller) -> list[dict[str, Any]]:
        found = await replays.recoveries(tx, caller, endpoint_id)
        return [each.model_dump(mode="json") for each in found]

    rows = _heal(config, endpoint_id, act)
    print_rows("Recoveries", columns, rows, as_json=as_json)


@app.command()
def enable(
    endpoint_id: EndpointArgument,
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Enable an endpoint again; missed events are sent."""
    _switch(config, endpoint_id, "enabled", as_json=as_json)


@app.command()
def disable(
    endpoint_id: EndpointArgument,
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Disable an endpoint; missed events are kept."""
    _switch(config, endpoint_id, "disabled", as_json=as_json)


@app.command()
def listen(  # noqa: PLR0913 - one argument per option
    *,
    forward_to: Annotated[str, typer.Option(help="Address to which every signed event is posted.")],
    gateway: Annotated[
        str, typer.Option(envvar="PAYOUT_GATEWAY_URL", help="Base URL of the gateway.")
    ] = "http://127.0.0.1:8080",
    api_key: Annotated[
        str,
        typer.Option(
            envvar="PAYOUT_GATEWAY_API_KEY",
            help="API key; better set in the environment.",
            show_envvar=True,
        ),
    ] = "",
    secret: Annotated[
        str,
        typer.Option(
            envvar="PAYOUT_GATEWAY_WEBHOOK_SECRET",
            help="Signing secret (whsec_...). Not given: a new one.",
        ),
    ] = "",
    events: Annotated[str, typer.Option(help="Event types to forward, `*` allowed.")] = "*",
    every_s: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two polls.")
    ] = 1.0,
) -> None:
    """Forward new events to a program on this machine, without an endpoint.

    Reads the feed: no port is opened and no tunnel is needed. Each event is posted once.
    """
    import asyncio

    from gateway.cli.listen import Listener, ListenError

    if not api_key:
        fail("give an API key: set PAYOUT_GATEWAY_API_KEY", 2)
    try:
        listener = Listener(
            gateway=gateway,
            api_key=api_key,
            forward_to=forward_to,
            secret=secret,
            events=events,
            every_s=every_s,
        )
        asyncio.run(listener.run())
    except ListenError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _switch(config: Path, endpoint_id: str, status: str, *, as_json: bool) -> None:
    from gateway.runtime import real_runtime
    from gateway.store import endpoints
    from gateway.store.audit import add_audit
    from gateway.webhooks.subscriptions import EndpointChange

    runtime = real_runtime()

    async def act(tx: Tx, replays: Replays, caller: Caller) -> bool:
        change = EndpointChange.model_validate({"status": status})
        row = await endpoints.endpoint_row(tx, endpoint_id)
        _, job = await replays.change(tx, caller, endpoint_id, change)
        await add_audit(
            tx,
            runtime.ids,
            runtime.clock.moment().wall,
            actor=operator_name(),
            act="endpoint_changed",
            subject=endpoint_id,
            org=caller.org,
            before={"status": None if row is None else row["status"]},
            after={"status": status},
        )
        return job is not None

    recovers = _heal(config, endpoint_id, act, writes=True)
    if as_json:
        print_json({"id": endpoint_id, "status": status, "recovers": recovers})
        return
    more = "; what it missed is being recovered" if recovers else ""
    say(f"{endpoint_id} is {status}{more}")


def _heal(
    config: Path,
    of: str,
    act: Callable[[Tx, Replays, Caller], Awaitable[T]],
    *,
    writes: bool = False,
) -> T:
    """Act as the org that an endpoint or an event belongs to."""
    from gateway.caller import Caller
    from gateway.errors import Refused
    from gateway.runtime import real_runtime
    from gateway.store import endpoints, events
    from gateway.vault import vault_of
    from gateway.webhooks.endpoints import Endpoints
    from gateway.webhooks.replay import Replays

    settings, runtime = settings_of(config), real_runtime()
    vault = vault_of(settings, runtime.ids)
    replays = Replays(runtime, Endpoints(runtime, vault, settings))

    async def in_tx(tx: Tx) -> tuple[T] | None:
        find = events.event_row if of.startswith("evt_") else endpoints.endpoint_row
        row: Row | None = await find(tx, of)
        if row is None:
            return None
        return (await act(tx, replays, Caller(row["org"], row["mode"], "operator")),)

    async def work(db: Database) -> tuple[T] | None:
        return await db.run(in_tx) if writes else await db.scan(in_tx)

    try:
        done = (with_store if writes else reading_store)(config, work)
    except Refused as error:
        fail(error.detail)
    if done is None:
        fail(f"there is no endpoint or event {of}")
    return done[0]
