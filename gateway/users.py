"""People who use the panel: users, their passwords and one-time codes, their sessions.

A user has one role, in one org or in all of them. Passwords are kept as Argon2id hashes, the secrets of
one-time codes are sealed, and of a session the database has only the digest of its token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from urllib.parse import urlsplit

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.config.section import ORG
from gateway.errors import GatewayError
from gateway.runtime import Runtime
from gateway.store import users as rows
from gateway.store.audit import GATEWAY, INSTALLATION, Act, add_audit
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, maybe_from_us, to_us
from gateway.vault import Vault, digest_of

#: Acts in the audit log.
CREATED, REMOVED, RESET = "user_created", "user_removed", "user_reset"
SIGNED_IN, SIGNED_OUT = "user_signed_in", "user_signed_out"
SIGN_IN_FAILED = "user_sign_in_failed"
#: How long a session lives without a request, and at all.
IDLE = timedelta(minutes=30)
LIFE = timedelta(hours=12)
_SEEN_NOTED_US = 60_000_000
_NAME = re.compile(r"[a-z][a-z0-9._-]{1,39}", re.ASCII)
#: Who acts in the audit log without being a user.
_RESERVED = frozenset({"gateway", "operator", "client_secret"})
_SHORTEST, _LONGEST = 12, 200
#: What the audit log has as the subject of an attempt under a name that is nobody's; no name of a user.
UNKNOWN_NAME = "unknown name"
_TOKEN_BYTES = 32
_STEP_S = 30
_CODE = re.compile(r"[0-9]{6}", re.ASCII)


class Role(StrEnum):
    """What a user may do. Each role may do what those before it may."""

    VIEWER = "viewer"  #: read
    OPERATOR = "operator"  #: act on payouts and batches, send events again, pause
    ADMIN = "admin"  #: change keys and webhook endpoints

    def includes(self, other: Role) -> bool:
        """Whether this role may do what another one may."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)


class UserError(GatewayError):
    """A user cannot be created or changed so; the message says why."""


@dataclass(frozen=True)
class User:
    """Who is signed in."""

    id: str
    name: str
    #: None: every org
    org: str | None
    role: Role
    #: the digest of the session's token
    session: str
    seen_at: int

    @property
    def everywhere(self) -> bool:
        """Whether it is a user of the whole gateway."""
        return self.org is None


@dataclass(frozen=True)
class UserInfo:
    """What is known of a user."""

    id: str
    name: str
    org: str | None
    role: str
    created_at: datetime
    signed_in_at: datetime | None
    removed_at: datetime | None


@dataclass(frozen=True)
class Enrolment:
    """What a new user's authenticator app needs. It exists here and nowhere else."""

    id: str
    name: str
    #: base32, to be typed in
    secret: str
    #: the same as an `otpauth:` link
    link: str


@cache
def _hasher() -> PasswordHasher:
    # The library's defaults are RFC 9106's for a server: Argon2id, 64 MiB.
    return PasswordHasher()


@cache
def _nobody() -> str:
    """Return the hash that is compared where there is no such user, so that both take as long."""
    return _hasher().hash("nobody has this password")


def hash_of(password: str) -> str:
    """Return the Argon2id hash of a password. Slow on purpose; needs 64 MiB."""
    return _hasher().hash(password)


def password_fault(name: str, password: str) -> str | None:
    """Return why a password is not usable, or None. Pure."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        return f"a password has {_SHORTEST} to {_LONGEST} characters"
    if name in password.lower() or len(set(password)) < _SHORTEST // 2:
        return "this password is easy to guess: take several words, or have one made by a password manager"
    return None


async def create(  # noqa: PLR0913 - who it is, and who creates it
    tx: Tx,
    runtime: Runtime,
    vault: Vault,
    name: str,
    org: str | None,
    role: Role,
    password: str,
    *,
    site: str,
    act: Act,
) -> Enrolment:
    """Create a user. `password`: its hash; `site`: the public URL, for the authenticator app.

    `org` None: a user of the whole gateway. UserError if the name is taken or not usable.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED or name.startswith("key_"):
        raise UserError(
            "a user's name has 2 to 40 lower-case letters, digits, dots, dashes or underscores, begins with a "
            "letter, and is none that the audit log uses itself"
        )
    if org is not None and not ORG.fullmatch(org):
        raise UserError("an org's name has 1 to 63 letters, digits, dots, dashes or underscores")
    if await rows.user_by_name(tx, name) is not None:
        raise UserError(
            f"there is, or was, a user {name}; names are not used again, as the audit log names them"
        )
    user_id = runtime.ids.new("usr")
    made = _enrolment(runtime, user_id, name, site)
    await rows.insert_user(
        tx,
        id=user_id,
        name=name,
        org=org,
        role=role.value,
        password=password,
        totp=vault.seal(made.secret.encode(), bound_to=user_id),
        totp_step=0,
        created_at=to_us(runtime.clock.now()),
        signed_in_at=None,
        removed_at=None,
    )
    await _audit(tx, runtime, CREATED, name, org, act, after={"role": role.value, "org": org})
    return made


async def reset(  # noqa: PLR0913 - who it is, and who resets it
    tx: Tx, runtime: Runtime, vault: Vault, name: str, password: str, *, site: str, act: Act
) -> Enrolment:
    """Give a user a new password (its hash) and a new secret for codes; its sessions end.

    UserError if there is no such user.
    """
    row = await _living(tx, name)
    made = _enrolment(runtime, row["id"], name, site)
    await rows.update_user(
        tx,
        row["id"],
        password=password,
        totp=vault.seal(made.secret.encode(), bound_to=row["id"]),
        totp_step=0,
    )
    await rows.end_sessions_of(tx, row["id"])
    await _audit(tx, runtime, RESET, name, row["org"], act)
    return made


async def remove(tx: Tx, runtime: Runtime, name: str, act: Act) -> None:
    """Remove a user; its sessions end at once. UserError if there is no such user."""
    row = await _living(tx, name)
    at = to_us(runtime.clock.now())
    await rows.update_user(tx, row["id"], removed_at=at, password=None, totp=None)
    await rows.end_sessions_of(tx, row["id"])
    await _audit(tx, runtime, REMOVED, name, row["org"], act)


async def list_users(tx: Tx) -> list[UserInfo]:
    """Return every user, removed ones too."""
    return [
        UserInfo(
            id=row["id"],
            name=row["name"],
            org=row["org"],
            role=row["role"],
            created_at=from_us(row["created_at"]),
            signed_in_at=maybe_from_us(row["signed_in_at"]),
            removed_at=maybe_from_us(row["removed_at"]),
        )
        for row in await rows.all_users(tx)
    ]


@dataclass(frozen=True)
class Claim:
    """What a user types to sign in."""

    name: str
    password: str
    code: str


def is_genuine(vault: Vault, row: Row | None, claim: Claim, at: datetime) -> int | None:
    """Return the time step of the code where password and code are a user's; None otherwise.

    Slow on purpose. Does the same work for a user that there is and for one that there is not.
    """
    known = row is not None and row["removed_at"] is None and row["password"] and row["totp"]
    sealed = row["totp"] if known and row is not None else None
    hashed = str(row["password"]) if known and row is not None else _nobody()
    secret = (
        vault.open(sealed, bound_to=row["id"]).decode()
        if sealed is not None and row is not None
        else base64.b32encode(b"nobody's secret here").decode()
    )
    same = _is_password(hashed, claim.password)
    step = _step_of(secret, claim.code, at)
    return step if known and same else None


def _is_password(hashed: str, password: str) -> bool:
    try:
        return _hasher().verify(hashed, password[: _LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False


def is_password(row: Row | None, password: str) -> bool:
    """Whether a password is a user's, asked once more before what cannot be undone. Slow on purpose."""
    living = row is not None and row["removed_at"] is None
    hashed = str(row["password"]) if row is not None and living else _nobody()
    return _is_password(hashed, password) and living


def _step_of(secret: str, code: str, at: datetime) -> int | None:
    """Return the step that a code is of: the present one, or one beside it for clocks that differ."""
    wanted, now = "".join(code.split()), int(at.timestamp()) // _STEP_S
    totp, found = pyotp.TOTP(secret), None
    if not _CODE.fullmatch(wanted):
        wanted = "------"
    for step in (now - 1, now, now + 1):
        if hmac.compare_digest(totp.generate_otp(step), wanted):
            found = step
    return found


async def begin_session(  # noqa: PLR0913 - whose, by what, and instead of which one
    tx: Tx, runtime: Runtime, row: Row, step: int, act: Act, *, before: str | None
) -> str | None:
    """Begin a session with a new token, and return it; None if the code was used already.

    `before`: the digest of the session that the browser had; it ends.
    """
    now = to_us(runtime.clock.now())
    if not await rows.use_code(tx, row["id"], step, now):
        return None
    if before is not None:
        await rows.end_session(tx, before)
    await rows.end_old_sessions(tx, now - _us(IDLE), now - _us(LIFE))
    token = base64.urlsafe_b64encode(runtime.ids.random_bytes(_TOKEN_BYTES)).rstrip(b"=").decode()
    await rows.add_session(tx, digest_of(token), row["id"], now)
    await _audit(tx, runtime, SIGNED_IN, row["name"], row["org"], act)
    return token


async def note_failed(tx: Tx, runtime: Runtime, row: Row | None, request_id: str) -> None:
    """Write that somebody could not sign in. `row`: the user whose name was given; None: it is nobody's.

    Nothing that was typed is written: people type passwords into the wrong field.
    """
    name, org = (UNKNOWN_NAME, None) if row is None else (row["name"], row["org"])
    await _audit(tx, runtime, SIGN_IN_FAILED, name, org, Act(GATEWAY, request_id))


async def session_of(tx: Tx, runtime: Runtime, token: str) -> User | None:
    """Return who a session's token belongs to; None if the session is over."""
    now, digest = to_us(runtime.clock.now()), digest_of(token)
    row = await rows.session_user(tx, digest, now - _us(LIFE), now - _us(IDLE))
    if row is None:
        return None
    return User(row["id"], row["name"], row["org"], Role(row["role"]), digest, row["seen_at"])


def is_to_note(runtime: Runtime, user: User) -> bool:
    """Whether the use of a session is to be written: at most once a minute."""
    return to_us(runtime.clock.now()) - user.seen_at >= _SEEN_NOTED_US


async def end_session(tx: Tx, runtime: Runtime, user: User, act: Act) -> None:
    """End the session of who is signed in. May be called twice."""
    await rows.end_session(tx, user.session)
    await _audit(tx, runtime, SIGNED_OUT, user.name, user.org, act)


def form_token(token: str) -> str:
    """Return what every form of a session carries, so that no other site can send it. Pure."""
    return hashlib.sha256(b"form:" + token.encode()).hexdigest()


def is_form_token(sent: str, token: str) -> bool:
    """Whether a form was made for this session; in constant time."""
    return hmac.compare_digest(sent.encode(), form_token(token).encode())


def _enrolment(runtime: Runtime, user_id: str, name: str, site: str) -> Enrolment:
    secret = base64.b32encode(runtime.ids.random_bytes(20)).decode()
    issuer = f"Payouts {urlsplit(site).hostname or 'gateway'}"
    link = pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=issuer)
    return Enrolment(user_id, name, secret, link)


async def _living(tx: Tx, name: str) -> Row:
    row = await rows.user_by_name(tx, name)
    if row is None or row["removed_at"] is not None:
        raise UserError(f"there is no user {name}; payout-gateway users list shows them all")
    return row


async def _audit(  # noqa: PLR0913 - the act and its circumstances
    tx: Tx,
    runtime: Runtime,
    what: str,
    name: str,
    org: str | None,
    act: Act,
    after: dict[str, str | None] | None = None,
) -> None:
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=act.actor,
        act=what,
        subject=name,
        org=org or INSTALLATION,
        after=after,
        request_id=act.request_id,
    )


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
