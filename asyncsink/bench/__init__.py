"""Measuring an S3 server with asyncsink as its client: `asyncsink bench`."""
