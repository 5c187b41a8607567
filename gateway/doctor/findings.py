"""What a check has found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.logs import scrub


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  #: works, and should be looked at
    FAILED = "failed"  #: does not work, or not safely
    SKIPPED = "skipped"  #: could not be checked because of another failure


@dataclass(frozen=True)
class Finding:
    """What one check has found. No secret is in it."""

    check: str
    level: Level
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, str | None]:
        """Return the finding as JSON has it."""
        return {
            "check": self.check,
            "level": self.level.value,
            "detail": self.detail,
            "fix": self.fix or None,
        }


def ok(check: str, detail: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, Level.OK, scrub(detail))


def warning(check: str, detail: str, fix: str) -> Finding:
    """Return that something works and should be looked at."""
    return Finding(check, Level.WARNING, scrub(detail), scrub(fix))


def failed(check: str, detail: str, fix: str) -> Finding:
    """Return that something does not work."""
    return Finding(check, Level.FAILED, scrub(detail), scrub(fix))


def skipped(check: str, detail: str) -> Finding:
    """Return that something could not be checked."""
    return Finding(check, Level.SKIPPED, scrub(detail))
