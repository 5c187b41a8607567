"""One try at one signed webhook: bytes in, outcome out."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import aiohttp

from gateway import __version__
from gateway.config import WebhookSettings
from gateway.egress import DeniedAddressError
from gateway.seams import Seams
from gateway.signing import headers

#: How much of the answer is read at all; a receiver may answer without end.
_READ_BYTES = 1024
_SNIPPET_CHARS = 500


class DeliveryOutcome(StrEnum):
    """What a try met."""

    SUCCEEDED = "succeeded"  #: answered 2xx
    HTTP_ERROR = "http_error"  #: answered anything else, redirects too
    TIMEOUT = "timeout"  #: no complete answer in time
    CONNECT_ERROR = "connect_error"  #: no connection, or it broke
    TLS_ERROR = "tls_error"  #: the certificate or the handshake failed
    BLOCKED = "blocked"  #: the address is not public


@dataclass(frozen=True)
class Tried:
    """One try and what came of it."""

    outcome: DeliveryOutcome
    http_status: int | None
    snippet: str | None
    duration_ms: int

    @property
    def ok(self) -> bool:
        """Whether the receiver has it."""
        return self.outcome is DeliveryOutcome.SUCCEEDED


class Sender:
    """Signs and posts. The same body bytes at every try; id the same, timestamp and signature new."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: WebhookSettings, seams: Seams
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(
            total=settings.timeout_s, connect=min(5, settings.timeout_s)
        )
        self._seams = seams

    async def send(self, url: str, secrets: tuple[bytes, ...], event_id: str, body: bytes) -> Tried:
        """Post an event to an endpoint once. Raises nothing; the outcome tells."""
        begun = self._seams.clock.monotonic()
        status, snippet = None, None
        try:
            async with self._session.post(
                url,
                data=body,
                headers={
                    **headers(secrets, event_id, self._seams.clock.now(), body),
                    "content-type": "application/json",
                    "user-agent": f"payout-gateway/{__version__}",
                },
                allow_redirects=False,
                timeout=self._timeout,
            ) as answer:
                status = answer.status
                snippet = (await answer.content.read(_READ_BYTES)).decode("utf-8", "replace")[
                    :_SNIPPET_CHARS
                ]
                ok = 200 <= status < 300  # noqa: PLR2004 - any 2xx is a receipt, nothing else
                outcome = DeliveryOutcome.SUCCEEDED if ok else DeliveryOutcome.HTTP_ERROR
        except TimeoutError:
            outcome = DeliveryOutcome.TIMEOUT
        except (aiohttp.ClientSSLError, ssl.SSLError):
            outcome = DeliveryOutcome.TLS_ERROR
        except (aiohttp.ClientError, OSError, ValueError) as error:
            blocked = isinstance(error, DeniedAddressError) or isinstance(
                getattr(error, "os_error", None), DeniedAddressError
            )
            outcome = DeliveryOutcome.BLOCKED if blocked else DeliveryOutcome.CONNECT_ERROR
        took = timedelta(seconds=self._seams.clock.monotonic() - begun)
        return Tried(outcome, status, snippet, int(took / timedelta(milliseconds=1)))
