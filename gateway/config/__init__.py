"""The settings of a gateway: one module per section, and `settings`, which reads and checks them all."""
