"""Settings of how many requests are taken."""

from __future__ import annotations

from pydantic import Field

from gateway.config.section import Section


class LimitSettings(Section):
    """How many requests are taken. Each process counts for itself."""

    reads_per_s: float = Field(
        default=100, gt=0, description="GET requests per API key and second."
    )
    reads_burst: int = Field(default=400, ge=1, description="GET requests per API key at once.")
    quotes_per_s: float = Field(default=50, gt=0, description="Quotes per API key and second.")
    quotes_burst: int = Field(default=200, ge=1, description="Quotes per API key at once.")
    confirms_per_s: float = Field(
        default=20,
        gt=0,
        description="Confirms and cancels per API key or client secret and second.",
    )
    confirms_burst: int = Field(
        default=100,
        ge=1,
        description="Confirms and cancels per API key or client secret at once.",
    )
    writes_per_s: float = Field(
        default=50, gt=0, description="All other requests per API key and second."
    )
    writes_burst: int = Field(
        default=200, ge=1, description="All other requests per API key at once."
    )
    unknown_per_s: float = Field(
        default=5,
        gt=0,
        description="Requests with wrong keys, tokens or paths that are answered per client address and second.",
    )
    unknown_burst: int = Field(
        default=50,
        ge=1,
        description="Requests with wrong keys, tokens or paths that are answered per client address at once.",
    )
    quote_calls_per_s: float = Field(
        default=5,
        gt=0,
        description="Calls to a custodian instance for (off-ramp) quotes, per org and second.",
    )
    quote_calls_burst: int = Field(
        default=50,
        ge=1,
        description="Calls to a custodian instance for (off-ramp) quotes, per org at once.",
    )
    batch_jobs_per_org: int = Field(
        default=4,
        ge=1,
        description="Reports, checks and creations of batches that run at the same time for one org.",
    )
    batch_jobs: int = Field(
        default=16,
        ge=1,
        description="Reports, checks and creations of batches that run at the same time in total.",
    )
    bodies: int = Field(
        default=100,
        ge=1,
        description="Request bodies that arrive at the same time per API key or client secret.",
    )
    streams: int = Field(
        default=400,
        ge=0,
        description="Open event streams of tracking pages in total. Further pages poll every few seconds instead.",
    )
    streams_per_address: int = Field(
        default=40,
        ge=0,
        description="Open event streams of tracking pages per client address (IPv6: per /64).",
    )
    refusals_per_s: float = Field(
        default=10,
        gt=0,
        description="429 responses per second to one API key, client secret or unknown address, once "
        "`refusals_burst` is used up; further ones are held back until their turn.",
    )
    refusals_burst: int = Field(
        default=50, ge=1, description="429 responses to one caller that are sent without delay."
    )
    refusals_held_s: float = Field(
        default=5,
        ge=0,
        description="Maximum time that a 429 response is held back, in seconds. One that would wait longer is "
        "sent at once, and its connection is closed.",
    )
    refusals_held: int = Field(
        default=400,
        ge=0,
        description="429 responses that are held back at the same time in total.",
    )
