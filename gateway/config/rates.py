"""Settings of how many requests are taken."""

from __future__ import annotations

from pydantic import Field

from gateway.config.section import Section


class LimitSettings(Section):
    """How many requests are taken. Each process counts for itself."""

    reads_per_s: float = Field(
        default=100, gt=0, description="GET requests of one API key a second."
    )
    reads_burst: int = Field(default=400, ge=1, description="GET requests of one API key at once.")
    quotes_per_s: float = Field(default=50, gt=0, description="Quotes of one API key a second.")
    quotes_burst: int = Field(default=200, ge=1, description="Quotes of one API key at once.")
    confirms_per_s: float = Field(
        default=20,
        gt=0,
        description="Confirms and cancels of one API key or client secret a second.",
    )
    confirms_burst: int = Field(
        default=100,
        ge=1,
        description="Confirms and cancels of one API key or client secret at once.",
    )
    writes_per_s: float = Field(
        default=50, gt=0, description="All other requests of one API key a second."
    )
    writes_burst: int = Field(
        default=200, ge=1, description="All other requests of one API key at once."
    )
    unknown_per_s: float = Field(
        default=5,
        gt=0,
        description="Wrong keys, tokens and paths of one client address that are answered a second.",
    )
    unknown_burst: int = Field(
        default=50,
        ge=1,
        description="Wrong keys, tokens and paths of one client address that are answered at once.",
    )
    quote_calls_per_s: float = Field(
        default=5,
        gt=0,
        description="Calls of one custodian instance for quotes of one org a second (off-ramp quotes).",
    )
    quote_calls_burst: int = Field(
        default=50,
        ge=1,
        description="Calls of one custodian instance for quotes of one org at once.",
    )
    batch_jobs_per_org: int = Field(
        default=4,
        ge=1,
        description="Reports, checks and creations of batches of one org that run at the same time.",
    )
    batch_jobs: int = Field(
        default=16,
        ge=1,
        description="Reports, checks and creations of batches that run at the same time.",
    )
    bodies: int = Field(
        default=100,
        ge=1,
        description="Request bodies of one API key or client secret that arrive at the same time.",
    )
    streams: int = Field(
        default=400,
        ge=0,
        description="Event streams of tracking pages that are open at the same time. Further pages "
        "ask for changes every few seconds instead.",
    )
    streams_per_address: int = Field(
        default=40,
        ge=0,
        description="Event streams of tracking pages of one client address (IPv6: /64).",
    )
    refusals_per_s: float = Field(
        default=10,
        gt=0,
        description="429 responses to one API key, client secret or unknown address a second, once "
        "`refusals_burst` is used up; further ones are held back until their turn.",
    )
    refusals_burst: int = Field(
        default=50, ge=1, description="429 responses to one caller that are sent without delay."
    )
    refusals_held_s: float = Field(
        default=5,
        ge=0,
        description="How long a 429 response may be held back, in seconds. One that would wait longer "
        "is sent without delay, and its connection is closed.",
    )
    refusals_held: int = Field(
        default=400,
        ge=0,
        description="429 responses that are held back at the same time, in total.",
    )
