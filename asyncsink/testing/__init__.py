"""Shipped and reusable: conformance suites, factories, fault injection."""
