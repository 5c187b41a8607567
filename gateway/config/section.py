"""The base of all sections of the settings, and the names that they share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

#: The allowed names of orgs.
ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


def _org_name(text: str) -> str:
    """Return the name of an org. ValueError if no key can be minted for it."""
    if not ORG.fullmatch(text):
        msg = "is not a valid org name: 1 to 63 letters, digits, dots, dashes or underscores, without "
        "blanks"
        raise ValueError(msg)
    return text


OrgName = Annotated[str, AfterValidator(_org_name)]
InstanceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
AssetCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_.]{2,16}$")]


class Section(BaseModel):
    """A section of the settings: no unknown member, no change, and no value in an error's text."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
