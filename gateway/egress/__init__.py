"""The only way to send to addresses that customers name, and the bounds on the answers."""

from gateway.egress.addresses import (
    DENIED,
    MAX_URL,
    DeniedAddressError,
    denied,
    url_fault,
)
from gateway.egress.connectors import Guard, PublicResolver, connector, custodian_connector
from gateway.egress.keepalive import KeepAliveClient
from gateway.egress.library import LibraryClient
from gateway.egress.posting import Poster

__all__ = [
    "DENIED",
    "MAX_URL",
    "DeniedAddressError",
    "Guard",
    "KeepAliveClient",
    "LibraryClient",
    "Poster",
    "PublicResolver",
    "connector",
    "custodian_connector",
    "denied",
    "url_fault",
]
