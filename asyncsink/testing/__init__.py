"""Shipped for reuse: a sink to memory for unit tests, conformance suites, factories, fault injection."""

from asyncsink.testing.memory import MemorySink, memory_sink

__all__ = ["MemorySink", "memory_sink"]
