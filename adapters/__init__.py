"""Custodian adapters, one folder each, with the custodian twins that they are tested against."""
