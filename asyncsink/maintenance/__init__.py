"""After publication: verifying manifests against the bucket, merging them, and aborting uploads left open."""
