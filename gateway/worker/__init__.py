"""The engine's loops: claim, do, settle. Payouts, custodians' webhooks, deliveries, the sweeper."""
