"""A simulated Fireblocks: an independent witness of what the adapter does."""
