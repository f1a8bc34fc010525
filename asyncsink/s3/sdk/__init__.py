"""The aioboto3 lane: botocore's client, and every request that the wire lane does not carry."""
