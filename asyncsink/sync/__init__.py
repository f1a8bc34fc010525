"""Sink and reader for synchronous code, over one event loop in the background."""
