"""Outgoing webhooks: endpoints, signed deliveries with retries, fair turns, and replays of missed events."""
