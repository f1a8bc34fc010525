"""Credentials: their sources, their renewal, and their absence from every message."""
