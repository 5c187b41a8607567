"""Which route can pay, at what price and how fast, and why each other route was left out."""
