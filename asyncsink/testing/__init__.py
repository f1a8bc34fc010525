"""Shipped for reuse: conformance suites, factories, fault injection."""
