"""Content without files: bytes in batches, and streams that are sent part by part while they come."""
