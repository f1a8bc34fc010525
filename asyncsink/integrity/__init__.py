"""Pure: checksums and their combination, and what counts as "the same object"."""
