"""Multipart uploads: planning parts, sending, proving the whole object, resuming after an interruption, aborting."""
