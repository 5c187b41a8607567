"""Balances of custodian accounts, and what accepted payouts reserve of them."""
