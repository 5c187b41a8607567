"""Fireblocks: payouts of the Payments Engine, and the twin that stands in for it on loopback."""
