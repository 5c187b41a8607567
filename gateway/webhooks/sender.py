"""One try at one signed webhook: bytes in, outcome out."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

import aiohttp

from gateway import __version__
from gateway.config import WebhookSettings
from gateway.egress import DeniedAddressError, connector
from gateway.egress.echoes import redact
from gateway.egress.lookups import Lookups, LookupTimeoutError, looking_up_for
from gateway.runtime import Runtime
from gateway.signing import PREFIX, headers, secret_text

#: How much of the answer is read at all; a receiver may answer without end.
_READ_BYTES = 16 * 1024
#: How much of it is kept for the log.
_SNIPPET_BYTES = 4 * 1024
#: How much of it is searched for what was sent; more than is kept, so that no value is cut in two.
_SEARCHED_BYTES = _SNIPPET_BYTES + 1024
#: How long the rest of an answer is waited for once its status is known; only the log gains by it.
_BODY_S = 1.0
_CONNECT_S = 5.0
#: Idle connections are closed before the usual server does it (Node: 5 s): a POST on a connection that
#: is just being closed fails, and whether it arrived is not known.
_KEEPALIVE_S = 3.0
_RETRY_AFTER_CHARS = 40
#: Values of headers that are no secret are removed from answers if they have so many characters.
_LEAST_SHOWN = 4
#: The answer header by which a receiver has its endpoint disabled (webhooks protocol notes, §2).
_CONTROL = "webhook-delivery"


class DeliveryOutcome(StrEnum):
    """What a try met."""

    SUCCEEDED = "succeeded"  #: answered 2xx
    HTTP_ERROR = "http_error"  #: answered anything else, redirects too
    TIMEOUT = "timeout"  #: no status in time, or the name did not resolve in time
    CONNECT_ERROR = "connect_error"  #: no connection, or it broke
    TLS_ERROR = "tls_error"  #: the certificate or the handshake failed
    BLOCKED = "blocked"  #: the address is not public


#: Answers of a receiver that has too much to do.
_OVERLOADED = frozenset({429, 502, 503, 504})
_GONE = 410


@dataclass(frozen=True)
class Target:
    """Where events go, and what is sent along. `headers` may carry the subscriber's secrets."""

    url: str
    secrets: Sequence[bytes] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: of Ed25519 keys, for endpoints that want `v1a`, too
    seeds: Sequence[bytes] = field(default=(), repr=False)
    #: names of those of the headers whose values are shown to nobody
    sensitive: Collection[str] = ()
    #: whose endpoint it is: an org has a bounded number of look-ups of names
    org: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """One try and what came of it."""

    outcome: DeliveryOutcome
    http_status: int | None
    snippet: str | None
    duration_ms: int
    #: The receiver's `Retry-After`, in seconds.
    retry_after_s: float | None = None
    #: The receiver wants nothing more, by `webhook-delivery: disable`.
    unwanted: bool = False

    @property
    def ok(self) -> bool:
        """Whether the receiver has it."""
        return self.outcome is DeliveryOutcome.SUCCEEDED

    @property
    def overloaded(self) -> bool:
        """Whether the receiver needs time: 429, 502, 503, 504, or no answer."""
        return self.outcome is DeliveryOutcome.TIMEOUT or self.http_status in _OVERLOADED

    @property
    def disabled_reason(self) -> str | None:
        """Why the endpoint is to be disabled at once: `gone`, `unwanted`, or None."""
        if self.http_status == _GONE:
            return "gone"
        return "unwanted" if self.unwanted else None


def session_for(settings: WebhookSettings) -> aiohttp.ClientSession:
    """Return the session that deliveries go through. Needs a running loop; close it at the end.

    No cookies, no proxy from the environment. Through an egress proxy it is the proxy that resolves
    names and refuses inner addresses.
    """
    private = settings.allow_private_addresses or settings.egress_proxy is not None
    lookups = Lookups(
        "endpoint-names",
        deadline_s=settings.lookup_timeout_s,
        per_scope=settings.lookups_per_org,
    )
    return aiohttp.ClientSession(
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=connector(
            allow_private_addresses=private,
            resolver=lookups,
            owner=True,
            keepalive_s=_KEEPALIVE_S,
            denied_networks=settings.denied_networks,
        ),
    )


class Sender:
    """Signs and posts. The same body bytes at every try; id the same, timestamp and signature new."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: WebhookSettings, runtime: Runtime
    ) -> None:
        self._session = session
        self._total_s = settings.timeout_s
        self._proxy = settings.egress_proxy
        # The one deadline is ours, and ends with the status; aiohttp's would go on to the body.
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_S, settings.timeout_s)
        )
        self._runtime = runtime

    async def send(self, target: Target, event_id: str, body: bytes) -> DeliveryResult:
        """Post an event once. Raises nothing; the outcome tells.

        Where no connection came about, nothing was sent: it is dialled a second time at once.
        """
        begun = self._runtime.clock.monotonic()
        status, snippet, retry_after, unwanted = None, None, None, False
        try:
            sent: list[Mapping[str, str]] = []
            with looking_up_for(target.org):
                async with asyncio.timeout(self._total_s):
                    answer = await self._twice(target, event_id, body, sent)
            status, snippet = answer.status, await _snippet(answer, _confidential(target, sent))
            ok = 200 <= status < 300  # noqa: PLR2004 - any 2xx is a receipt, nothing else
            outcome = DeliveryOutcome.SUCCEEDED if ok else DeliveryOutcome.HTTP_ERROR
            retry_after = _retry_after(
                answer.headers.get("retry-after", ""), self._runtime.clock.now()
            )
            unwanted = answer.headers.get(_CONTROL, "").strip().lower() == "disable"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            outcome = _outcome(error)
        took = timedelta(seconds=self._runtime.clock.monotonic() - begun)
        duration_ms = int(took / timedelta(milliseconds=1))
        return DeliveryResult(outcome, status, snippet, duration_ms, retry_after, unwanted)

    async def _twice(
        self, target: Target, event_id: str, body: bytes, sent: list[Mapping[str, str]]
    ) -> aiohttp.ClientResponse:
        try:
            return await self._post(target, event_id, body, sent)
        except aiohttp.ClientConnectorError as error:
            if _outcome(error) is not DeliveryOutcome.CONNECT_ERROR:
                raise
        return await self._post(target, event_id, body, sent)

    async def _post(
        self, target: Target, event_id: str, body: bytes, sent: list[Mapping[str, str]]
    ) -> aiohttp.ClientResponse:
        signed = headers(target.secrets, event_id, self._runtime.clock.now(), body, target.seeds)
        sent.append(signed)
        return await self._session.post(
            target.url,
            data=body,
            headers={
                **target.headers,
                **signed,
                "content-type": "application/json",
                "user-agent": f"payout-gateway/{__version__}",
            },
            allow_redirects=False,
            timeout=self._timeout,
            proxy=self._proxy,
        )


def _confidential(target: Target, sent: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield what a receiver may echo and nobody is to read: header values, signatures, secrets."""
    sensitive = {name.lower() for name in target.sensitive}
    for name, value in target.headers.items():
        # A short value that is no secret ("pay", "1") would only make the answer unreadable.
        if name.lower() in sensitive or len(value) >= _LEAST_SHOWN:
            yield value
    for signed in sent:
        yield signed["webhook-signature"]
    for secret in target.secrets:
        yield from (secret_text(secret), secret_text(secret).removeprefix(PREFIX))


async def _snippet(answer: aiohttp.ClientResponse, confidential: Iterable[str]) -> str:
    """Read the beginning of an answer, and free it. The status has come; however the body ends, it stands.

    What the delivery itself sent in confidence is removed, before it leaves the sender.
    """
    if answer.content.at_eof():
        answer.release()
        return ""
    got = b""
    try:
        async with asyncio.timeout(_BODY_S):
            while len(got) < _READ_BYTES:
                chunk = await answer.content.read(_READ_BYTES - len(got))
                if not chunk:
                    break
                got += chunk
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        pass
    whole = answer.content.at_eof() and answer.content.exception() is None
    if answer.content.at_eof():
        answer.release()
    else:
        # The rest is not read: the connection cannot serve another delivery.
        answer.close()
    # Before the cut: a value across it would stay in part.
    seen = got[:_SEARCHED_BYTES]
    got = redact(seen, confidential, cut=not whole or len(seen) < len(got))
    return got[:_SNIPPET_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def _retry_after(text: str, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks for; None where it says nothing sensible."""
    text = text.strip()[:_RETRY_AFTER_CHARS]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _outcome(error: BaseException) -> DeliveryOutcome:
    if isinstance(error, TimeoutError):
        return DeliveryOutcome.TIMEOUT
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return DeliveryOutcome.TLS_ERROR
    cause = getattr(error, "os_error", None)
    if isinstance(cause, LookupTimeoutError):
        return DeliveryOutcome.TIMEOUT
    if isinstance(error, DeniedAddressError) or isinstance(cause, DeniedAddressError):
        return DeliveryOutcome.BLOCKED
    return DeliveryOutcome.CONNECT_ERROR
