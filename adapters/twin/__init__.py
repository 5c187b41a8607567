"""What every custodian twin shares: its application, clock, control API, faults, ledger and webhook outbox."""
