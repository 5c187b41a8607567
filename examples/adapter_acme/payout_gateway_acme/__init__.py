"""An imaginary custodian: the smallest complete adapter, to copy."""
