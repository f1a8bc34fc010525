"""Multipart uploads: planning parts, sending, proving the whole, going on with one that was interrupted, aborting."""
