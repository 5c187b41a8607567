"""Finds the routes that can pay, with price and speed, and the reason against each other route."""
