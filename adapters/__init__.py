"""Custodian adapters, one folder each, and the custodian twins they are tested against."""
