"""Balances of custodian accounts, and the reservations of accepted payouts."""
