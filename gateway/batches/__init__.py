"""Batches: what they are made of, their life, and the loop that runs them."""
