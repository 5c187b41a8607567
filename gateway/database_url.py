"""The URL of a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

#: How such a URL begins.
SCHEMES = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class PostgresUrl:
    """Where a PostgreSQL database is. The URL may hold a password: it is in no message and no `repr`."""

    url: str = field(repr=False)
    #: hosts, ports and name of the database, for messages
    label: str

    @classmethod
    def parse(cls, url: str) -> PostgresUrl:
        """Read a URL. ValueError if it names no database."""
        parts = urlsplit(url)
        places = (
            parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", ["localhost"])[0]
        )
        for place in places.split(","):
            try:
                urlsplit(f"//{place}").port  # noqa: B018 - it is checked
            except ValueError:
                raise ValueError("the port of the URL is not a number") from None
        name = unquote(parts.path.removeprefix("/"))
        if not name or "/" in name:
            raise ValueError("the URL names no database: postgresql://user@host:5432/name")
        return cls(url, f"postgresql:{places}/{name}")

    @property
    def password(self) -> str | None:
        """The password in the URL, to be kept out of logs."""
        found = urlsplit(self.url).password
        return None if found is None else unquote(found)
