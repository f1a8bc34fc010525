"""The wire lane: PutObject, UploadPart and HeadObject as HTTP/1.1 written and read by ourselves."""
