"""The only way out to addresses that customers name, and the bounds on what comes back."""

from gateway.egress.addresses import (
    DENIED,
    MAX_URL,
    DeniedAddressError,
    denied,
    url_fault,
)
from gateway.egress.connectors import PublicResolver, connector, custodian_connector

__all__ = [
    "DENIED",
    "MAX_URL",
    "DeniedAddressError",
    "PublicResolver",
    "connector",
    "custodian_connector",
    "denied",
    "url_fault",
]
