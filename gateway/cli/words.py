"""The model's words that the command line takes, without loading the model: help stays quick.

A test holds them to the model's own.
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
