"""A simulated Dfns: an independent witness of what the adapter does."""
