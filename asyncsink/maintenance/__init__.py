"""After publication: verifying a manifest against the bucket, and aborting uploads that were left open."""
