"""Custodian instances: adapters found by entry point, each wrapped with deadline, metrics and logs."""
