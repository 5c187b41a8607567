"""Fireblocks: payouts through the Payments Engine, and the twin that replaces it on loopback."""
