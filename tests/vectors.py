"""The deliveries that every way to verify is judged by, and the programs of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

NOW = 1_760_000_000
_PAGE = Path(__file__).parent.parent / "docs/how-to/verify-webhooks.md"
#: The signature of the vector under the page's second secret.
_OTHER = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="


def vector() -> tuple[str, dict[str, str], bytes]:
    """Return the page's own test vector: secret, headers, body."""
    page = _PAGE.read_text("utf-8")
    words = dict(re.findall(r"(?m)^(secret|id|timestamp|body|signature) +(\S+)$", page))
    sent = {
        "webhook-id": words["id"],
        "webhook-timestamp": words["timestamp"],
        "webhook-signature": words["signature"],
    }
    return words["secret"], sent, words["body"].encode()


def cases() -> list[tuple[bool, str, dict[str, str], str, float]]:
    """Return deliveries and whether they are authentic: secret, headers, body, now."""
    secret, sent, raw = vector()
    body = raw.decode()
    page = _PAGE.read_text("utf-8")
    other = re.findall(rf"{re.escape(_OTHER)}` .* `(v1,\S+)`", page)[0]
    mine = sent["webhook-signature"]
    return [
        (True, secret, sent, body, NOW),
        (True, secret, sent, body, NOW + 299),
        (True, secret, {**sent, "webhook-signature": f"v1,xx {mine}"}, body, NOW),
        (True, secret, {**sent, "webhook-signature": f"v1a,xx {mine} {other}"}, body, NOW),
        (True, _OTHER, {**sent, "webhook-signature": f"{mine} {other}"}, body, NOW),
        (False, _OTHER, sent, body, NOW),
        (False, secret, {**sent, "webhook-signature": other}, body, NOW),
        (False, secret, sent, body + " ", NOW),
        (False, secret, sent, body, NOW + 301),
        (False, secret, sent, body, NOW - 301),
        (False, secret, {**sent, "webhook-id": "msg_other"}, body, NOW),
        (False, secret, {**sent, "webhook-timestamp": "soon"}, body, NOW),
        (False, secret, {**sent, "webhook-timestamp": ""}, body, NOW),
        (False, secret, {**sent, "webhook-signature": "v1"}, body, NOW),
        (False, secret, {**sent, "webhook-signature": ""}, body, NOW),
        (False, secret, {}, body, NOW),
    ]


def block(language: str) -> str:
    """Return the page's one program in a language."""
    page = _PAGE.read_text("utf-8")
    (found,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page)
    return str(found)
