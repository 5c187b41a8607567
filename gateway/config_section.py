"""The base of every section of the settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration: unknown names are refused, and no value is in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
