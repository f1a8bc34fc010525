"""Stage 4 of 6: everything that speaks S3. The only package that imports aioboto3, aiobotocore or botocore."""
