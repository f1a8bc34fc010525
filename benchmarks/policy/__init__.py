"""The concurrency policy against models of networks and servers."""
