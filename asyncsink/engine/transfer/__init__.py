"""One transfer, from queue entry to outcome: small files in batches, large ones in parts, and the local copy."""
