"""A service that streams uploads to S3 with nothing on disk: fifty clients, bad weather, a shutdown."""
