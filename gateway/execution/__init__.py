"""Executions: the engine that pays one payout or many, at most once."""
