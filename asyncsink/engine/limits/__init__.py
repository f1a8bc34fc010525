"""The limits of a run: bytes in memory, reader threads, requests in flight, descriptors."""
