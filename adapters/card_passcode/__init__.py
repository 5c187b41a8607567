"""Payouts over the session, passcode, execution protocol."""
