"""Dfns: wallet transfers, and off-ramp payouts confirmed by the caller."""
