"""Checks who may call the twin: client credentials give a bearer token that is valid for minutes.

Source: card-passcode protocol notes, §2. Tokens are judged by the shared time, without the offset
of the twin's clock: a client's own clock does not move when the twin's is advanced.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import jwt
from aiohttp import web

from adapters.card_passcode.twin.requests import ObtainToken
from adapters.twin.base import Refusal

_WRONG = {"detail": "Could not validate credentials"}


class Gate:
    """The one merchant: its client id and secret, and the tokens given to it."""

    def __init__(self, new_secret: Callable[[int], str], shared_now: Callable[[], float]) -> None:
        self.client_id = "cli_" + new_secret(8)
        self.client_secret = new_secret(24)
        self._key = new_secret(32)
        self._now = shared_now
        self._made = 0
        self._first_good = 1

    def __repr__(self) -> str:
        """Return no secret."""
        return "Gate(…)"

    def revoke(self) -> None:
        """Refuse every token given so far."""
        self._first_good = self._made + 1

    def obtain(self, asked: ObtainToken, minutes: int) -> web.Response:
        """Return a token, or the 401 of wrong credentials."""
        known = hmac.compare_digest(asked.client_id.encode(), self.client_id.encode())
        if not known or not hmac.compare_digest(
            asked.client_secret.encode(), self.client_secret.encode()
        ):
            return web.json_response(_WRONG, status=401)
        self._made += 1
        claims = {
            "sub": self.client_id,
            "exp": int(self._now()) + minutes * 60,
            "jti": str(self._made),
        }
        token = jwt.encode(claims, self._key, algorithm="HS256")
        # The unit is minutes; the realtime keys of the same API count in seconds.
        return web.json_response(
            {"access_token": token, "token_type": "bearer", "expires_in": minutes}
        )

    def admit(self, request: web.Request, body: bytes) -> None:
        """Check the bearer token. Raises Refusal (401)."""
        del body
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            raise Refusal(web.json_response({"detail": "Not authenticated"}, status=401))
        try:
            claims = jwt.decode(
                token, self._key, algorithms=["HS256"], options={"verify_exp": False}
            )
        except jwt.InvalidTokenError:
            claims = {}
        alive = claims.get("exp", 0) > self._now() and int(claims["jti"]) >= self._first_good
        if scheme.lower() != "bearer" or not alive:
            raise Refusal(web.json_response(_WRONG, status=401))
