"""The model's words for the command line, without loading the model, so that help stays fast.

A test compares them with the model's own.
"""

from __future__ import annotations

from enum import StrEnum


class StatusWord(StrEnum):
    """A payout's status."""

    PENDING = "pending"
    BROADCAST = "broadcast"
    DELIVERED = "delivered"
    FAILED = "failed"


class FundsMovedWord(StrEnum):
    """Whether money left the source account."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class ScopeWord(StrEnum):
    """What a key may do."""

    QUOTES_WRITE = "quotes:write"
    PAYOUTS_READ = "payouts:read"
    PAYOUTS_WRITE = "payouts:write"
    BATCHES_WRITE = "batches:write"
    WEBHOOKS_WRITE = "webhooks:write"
    EVENTS_READ = "events:read"
    PAYOUTS_APPROVE = "payouts:approve"
    ADDRESSES_WRITE = "addresses:write"
    LIMITS_WRITE = "limits:write"
    KEYS_WRITE = "keys:write"
    PAYOUTS_OPERATE = "payouts:operate"
