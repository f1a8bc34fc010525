"""Stage 4 of 6: everything that speaks S3. The only room that knows aioboto3, aiobotocore or botocore."""
