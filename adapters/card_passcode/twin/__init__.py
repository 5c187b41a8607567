"""The simulated custodian with card passcodes: an independent witness of what the adapter does."""
