"""`payout-gateway doctor`: is everything that this gateway needs as it has to be? Changes nothing."""

from gateway.doctor.examination import examine
from gateway.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
