"""Webhook endpoints of an org."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from sqlalchemy import and_, bindparam, delete, func, insert, select, update

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.rows import to_json
from gateway.store.schema import endpoints, previous_secrets, recoveries

_ADD = Query(insert(endpoints))
_SCOPE = and_(
    endpoints.c.org == bindparam("org"),
    endpoints.c.mode == bindparam("mode"),
    endpoints.c.deleted_at.is_(None),
)
_GET = Query(select(endpoints).where(and_(_SCOPE, endpoints.c.id == bindparam("endpoint_id"))))
_DELETE = Query(
    update(endpoints)
    .where(and_(_SCOPE, endpoints.c.id == bindparam("endpoint_id")))
    .values(deleted_at=bindparam("at"), status="deleted")
    .returning(endpoints.c.id)
)
_COUNT = Query(select(func.count().label("count")).select_from(endpoints).where(_SCOPE))
_SUBSCRIBED = Query(
    select(endpoints.c.id, endpoints.c.event_types, endpoints.c.status).where(_SCOPE)
)
_ANY = Query(select(endpoints).where(endpoints.c.id == bindparam("endpoint_id")))
_LISTED = endpoints.c.id.in_(listed("ids"))
_SOME = Query(select(endpoints).where(_LISTED))
#: A row for each previous secret that still signs, the longest-lived first; one row where there is none.
_SIGNING = Query(
    select(
        endpoints,
        previous_secrets.c.id.label("previous_id"),
        previous_secrets.c.secret.label("previous_secret"),
    )
    .outerjoin(
        previous_secrets,
        and_(
            previous_secrets.c.endpoint_id == endpoints.c.id,
            previous_secrets.c.expires_at > bindparam("now"),
        ),
    )
    .where(and_(_LISTED, endpoints.c.status == "enabled", endpoints.c.deleted_at.is_(None)))
    .order_by(endpoints.c.id, previous_secrets.c.expires_at.desc())
)
_EVERY = Query(
    select(endpoints)
    .where(endpoints.c.deleted_at.is_(None))
    .order_by(endpoints.c.id.desc())
    .limit(bindparam("limit"))
)
_ADD_PREVIOUS = Query(insert(previous_secrets))
_PREVIOUS = Query(
    select(previous_secrets)
    .where(
        and_(
            previous_secrets.c.endpoint_id == bindparam("endpoint_id"),
            previous_secrets.c.expires_at > bindparam("now"),
        )
    )
    .order_by(previous_secrets.c.expires_at.desc())
)
_DROP_PREVIOUS = Query(
    delete(previous_secrets).where(
        and_(
            previous_secrets.c.endpoint_id == bindparam("endpoint_id"),
            previous_secrets.c.expires_at <= bindparam("until"),
        )
    )
)
_ADD_RECOVERY = Query(insert(recoveries))
_RECOVERY = Query(
    select(recoveries).where(
        and_(
            recoveries.c.id == bindparam("recovery_id"),
            recoveries.c.org == bindparam("org"),
            recoveries.c.mode == bindparam("mode"),
        )
    )
)
_RECOVERIES = Query(
    select(recoveries)
    .where(recoveries.c.endpoint_id == bindparam("endpoint_id"))
    .order_by(recoveries.c.id.desc())
    .limit(bindparam("limit"))
)
_RUNNING = Query(
    select(recoveries)
    .where(recoveries.c.state == "running")
    .order_by(recoveries.c.created_at)
    .limit(bindparam("limit"))
)
_STEP = Query(
    update(recoveries)
    .where(
        and_(
            recoveries.c.id == bindparam("recovery_id"),
            recoveries.c.state == "running",
        )
    )
    .values(
        position=bindparam("now_at"),
        looked_at=recoveries.c.looked_at + bindparam("more_looked_at"),
        recovered=recoveries.c.recovered + bindparam("more_recovered"),
        state=bindparam("new_state"),
        finished_at=bindparam("finished"),
    )
)
_ANY_RECOVERY = Query(select(recoveries).where(recoveries.c.id == bindparam("recovery_id")))


async def insert_endpoint(tx: Tx, **columns: object) -> None:
    """Store an endpoint; one argument per column."""
    unset = ("deleted_at", "disabled_reason", "disabled_at", "failing_since", "warned_at")
    await tx.all(_ADD, failing_twice=0, exhausted=0, **dict.fromkeys(unset), **columns)


async def find_endpoint(tx: Tx, endpoint_id: str, org: str, mode: str) -> Row | None:
    """Return an org's endpoint."""
    return await tx.one(_GET, endpoint_id=endpoint_id, org=org, mode=mode)


@lru_cache(maxsize=2)
def _page(after: bool) -> Query:  # noqa: FBT001 - part of the statement's shape
    query = select(endpoints).where(_SCOPE)
    if after:
        query = query.where(endpoints.c.id < bindparam("after_id"))
    return Query(query.order_by(endpoints.c.id.desc()).limit(bindparam("limit")))


async def list_endpoints(
    tx: Tx, org: str, mode: str, after_id: str | None, limit: int
) -> list[Row]:
    """Return an org's endpoints, newest first."""
    cursor = {} if after_id is None else {"after_id": after_id}
    return await tx.all(_page(after_id is not None), org=org, mode=mode, limit=limit, **cursor)


async def delete_endpoint(tx: Tx, endpoint_id: str, org: str, mode: str, at: int) -> bool:
    """Delete an endpoint; False if the org has none of that id."""
    return await tx.one(_DELETE, endpoint_id=endpoint_id, org=org, mode=mode, at=at) is not None


async def count_endpoints(tx: Tx, org: str, mode: str) -> int:
    """Return how many endpoints an org has, disabled ones too."""
    row = await tx.one(_COUNT, org=org, mode=mode)
    return 0 if row is None else int(row["count"])


async def subscribed_endpoints(tx: Tx, org: str, mode: str) -> list[Row]:
    """Return the endpoints of an org, disabled ones too: `id`, `event_types`, `status`."""
    return await tx.all(_SUBSCRIBED, org=org, mode=mode)


async def endpoint_row(tx: Tx, endpoint_id: str) -> Row | None:
    """Return an endpoint of any org."""
    return await tx.one(_ANY, endpoint_id=endpoint_id)


async def endpoint_rows(tx: Tx, endpoint_ids: Sequence[str]) -> list[Row]:
    """Return endpoints of any org."""
    return await tx.all(_SOME, ids=to_json(endpoint_ids))


async def signing_endpoints(tx: Tx, endpoint_ids: Sequence[str], now: int) -> list[Row]:
    """Return those of some endpoints that are enabled, once for each previous secret that still signs.

    Such a secret is `previous_id` and `previous_secret`; both are null if there is none.
    """
    return await tx.all(_SIGNING, ids=to_json(endpoint_ids), now=now)


@lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Query:
    return Query(
        update(endpoints)
        .where(endpoints.c.id == bindparam("endpoint_id"))
        .values({name: bindparam("set_" + name) for name in names})
    )


async def update_endpoint(tx: Tx, endpoint_id: str, **columns: object) -> None:
    """Change columns of an endpoint."""
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update(tuple(sorted(columns))), endpoint_id=endpoint_id, **values)


async def update_endpoints(tx: Tx, changes: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    """Change the same columns of some endpoints, each given by its id."""
    names = tuple(sorted(changes[0][1]))
    await tx.many(
        _update(names),
        [
            {"endpoint_id": endpoint_id, **{"set_" + name: columns[name] for name in names}}
            for endpoint_id, columns in changes
        ],
    )


async def every_endpoint(tx: Tx, limit: int) -> list[Row]:
    """Return the endpoints of all orgs, newest first."""
    return await tx.all(_EVERY, limit=limit)


async def add_previous_secret(
    tx: Tx, secret_id: str, endpoint_id: str, secret: bytes, expires_at: int
) -> None:
    """Keep a secret that was rotated out for a while."""
    await tx.all(
        _ADD_PREVIOUS, id=secret_id, endpoint_id=endpoint_id, secret=secret, expires_at=expires_at
    )


async def previous_secrets_of(tx: Tx, endpoint_id: str, now: int) -> list[Row]:
    """Return the previous secrets of an endpoint that still sign, the longest-lived first."""
    return await tx.all(_PREVIOUS, endpoint_id=endpoint_id, now=now)


async def drop_previous_secrets(tx: Tx, endpoint_id: str, until: int) -> None:
    """Forget the previous secrets that end before a time."""
    await tx.all(_DROP_PREVIOUS, endpoint_id=endpoint_id, until=until)


async def add_recovery(tx: Tx, **columns: object) -> None:
    """Store a job that sends again what an endpoint missed; one argument per column."""
    await tx.all(
        _ADD_RECOVERY,
        state="running",
        position=0,
        looked_at=0,
        recovered=0,
        finished_at=None,
        **columns,
    )


async def find_recovery(tx: Tx, recovery_id: str, org: str, mode: str) -> Row | None:
    """Return an org's recovery job."""
    return await tx.one(_RECOVERY, recovery_id=recovery_id, org=org, mode=mode)


async def running_recoveries(tx: Tx, limit: int) -> list[Row]:
    """Return jobs that are not finished, oldest first."""
    return await tx.all(_RUNNING, limit=limit)


async def any_recovery(tx: Tx, recovery_id: str) -> Row | None:
    """Return a recovery job of any org."""
    return await tx.one(_ANY_RECOVERY, recovery_id=recovery_id)


async def step_recovery(  # noqa: PLR0913 - one argument per column
    tx: Tx, recovery_id: str, *, now_at: int, looked_at: int, recovered: int, finished: int | None
) -> None:
    """Write a step of a job; `finished` ends it."""
    await tx.all(
        _STEP,
        recovery_id=recovery_id,
        now_at=now_at,
        more_looked_at=looked_at,
        more_recovered=recovered,
        new_state="running" if finished is None else "finished",
        finished=finished,
    )


async def recoveries_of(tx: Tx, endpoint_id: str, limit: int) -> list[Row]:
    """Return the recovery jobs of an endpoint, newest first."""
    return await tx.all(_RECOVERIES, endpoint_id=endpoint_id, limit=limit)
