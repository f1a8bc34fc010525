"""A model of many machines and S3's key-range partitions, in virtual time, and what checks it."""
