"""Stage 2 of 6: route. Pure: DataSink's rules turn an attribute and a path into a key, checked against S3's rules."""
