"""The simulated dummy custodian: an independent witness of what the adapter does."""
