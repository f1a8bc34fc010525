"""One transfer from queue entry to outcome: small files in batches, large ones in parts, the local copy beside."""
