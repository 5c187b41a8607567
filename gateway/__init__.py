"""A payout gateway: one model, one API and signed webhooks in front of several custodians."""

__version__ = "0.1.0"
