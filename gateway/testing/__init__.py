"""What authors of adapters get: the kit, a stack of real processes, orders, a clock.

Installed as `payout-gateway[testing]`. Nothing of the gateway imports it.
"""
