"""The simulated acme custodian: an independent witness of what the adapter does."""
