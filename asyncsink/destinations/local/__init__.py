"""A local directory as a destination: a temporary file, fsync, rename, relative to directory descriptors."""
