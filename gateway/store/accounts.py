"""Fingerprints of custodian accounts that an operator declared to be the same account."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select, update

from gateway.runtime import Ids
from gateway.store.audit import add_audit
from gateway.store.database import Query, Tx, upsert
from gateway.store.schema import account_declarations as declared

_ALL = Query(
    select(declared.c.fingerprint, declared.c.same_as).where(
        declared.c.custodian == bindparam("custodian")
    )
)
_INSERT = upsert(declared)
_DECLARE = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["custodian", "fingerprint"],
        set_={name: _INSERT.excluded[name] for name in ("same_as", "evidence", "at")},
    )
)
_RENAME = Query(
    update(declared)
    .where(
        and_(
            declared.c.custodian == bindparam("of_custodian"),
            declared.c.same_as == bindparam("old_name"),
        )
    )
    .values(same_as=bindparam("new_name"))
)


async def declare_same_account(  # noqa: PLR0913 - the declaration and its circumstances
    tx: Tx,
    ids: Ids,
    at: int,
    operator: str,
    *,
    custodian: str,
    fingerprint: str,
    same_as: str,
    evidence: str,
) -> bool:
    """Declare two fingerprints to be one account; False if they are already.

    Looks at the one then count for calls at the other. All that are the same go by one name, also
    where the declarations came one after the other. `at`: wall clock, microseconds.
    """
    names = {row["fingerprint"]: row["same_as"] for row in await tx.all(_ALL, custodian=custodian)}
    old, new = names.get(fingerprint, fingerprint), names.get(same_as, same_as)
    if old == new:
        return False
    await tx.all(_RENAME, of_custodian=custodian, old_name=old, new_name=new)
    await tx.all(
        _DECLARE, custodian=custodian, fingerprint=old, same_as=new, evidence=evidence, at=at
    )
    detail = f"{fingerprint} is the same account as {same_as}: {evidence}"
    await add_audit(
        tx, ids, at, actor=operator, act="same_account", subject=custodian, detail=detail
    )
    return True
