"""Inherited tests that run nothing: what is declared, and what the package may import."""

from __future__ import annotations

from gateway.custodians.checks import faults_of
from gateway.testing.declared import proves
from gateway.testing.kit_base import KitBase


class StaticTests(KitBase):
    """The package as it is installed."""

    @proves("rules")
    def test_the_package_keeps_the_rules_of_the_contract(self) -> None:
        """Entry points, settings, declared verbs, imports: `adapters check` says the same."""
        assert faults_of(self.name()) == []

    @proves("rules")
    def test_the_kit_names_a_way_that_the_adapter_declares(self) -> None:
        """The destination of the kit's terms is one of the declared types."""
        assert self.terms["destination"].type in self.adapter.capabilities.destination_types
