"""asyncsink beside its peers: same files, same server, interleaved rounds. See `python -m benchmarks --help`."""
